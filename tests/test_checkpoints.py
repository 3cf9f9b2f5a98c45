"""Checkpoints after a crash, with damaged files, and of another shape than expected."""

import json
import os
import pickle
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import checkpoints
from kd_jax.checkpoints import CheckpointError, CheckpointStore, digest_arrays


def tree(value: float):
  """One array of each type that training has."""
  return {
    "params": {
      "kernel": np.full((3, 4), value, np.float32),
      "half": jnp.full((2,), value, "bfloat16"),
    },
    "opt": [np.arange(3, dtype=np.int32), ()],
    "accuracy": np.array([0.1 + value]),
    "key": np.array(7, np.uint32),
  }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A store with the steps 1 and 2, to be copied and damaged."""
  store = CheckpointStore(tmp_path_factory.mktemp("store"))
  for step in (1, 2):
    store.save(step, tree(step), {"epoch": step})
  return store.directory


@pytest.fixture
def store(saved, tmp_path):
  return CheckpointStore(shutil.copytree(saved, tmp_path / "store"))


def step_files(store, step):
  return sorted(p for p in (store.directory / "steps" / str(step)).rglob("*") if p.is_file())


def flip(path):
  content = bytearray(path.read_bytes()) or bytearray(1)
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-2])


def remove(path):
  path.unlink()


def test_round_trip_keeps_every_bit_type_and_shape(store):
  restored = store.restore()
  assert (restored.step, restored.meta, restored.problems) == (2, {"epoch": 2}, ())
  expected = checkpoints.flatten(tree(2))
  assert {n: (a.dtype, a.shape) for n, a in restored.state.items()} == {
    n: (a.dtype, a.shape) for n, a in expected.items()
  }
  assert digest_arrays(restored.state) == digest_arrays(expected) == restored.digest
  back = checkpoints.unflatten(tree(0), restored.state)
  np.testing.assert_array_equal(back["params"]["kernel"], tree(2)["params"]["kernel"])
  assert store.meta(1) == {"epoch": 1}
  assert store.restore(1).meta == {"epoch": 1}


@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_any_damaged_file_is_named_and_the_step_before_is_used(saved, tmp_path, damage):
  files = step_files(CheckpointStore(saved), 2)
  assert len(files) >= 6
  for number, original in enumerate(files):
    if damage is truncate and not original.stat().st_size:
      continue  # there is nothing to cut off
    store = CheckpointStore(shutil.copytree(saved, tmp_path / str(number)))
    path = store.directory / original.relative_to(saved)
    damage(path)
    with pytest.raises(CheckpointError) as caught:
      store.check(2)
    assert str(path) in str(caught.value)
    restored = store.restore()
    assert restored.step == 1
    assert restored.digest == digest_arrays(checkpoints.flatten(tree(1)))
    (problem,) = restored.problems
    assert str(path) in problem


@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_a_damaged_seal_is_named_and_the_step_before_is_used(store, damage):
  seal = store.directory / "seals" / "2.json"
  damage(seal)
  restored = store.restore()
  assert restored.step == 1
  assert str(seal) in "".join(restored.problems)


def test_a_flipped_bit_anywhere_in_a_seal_is_noticed(store):
  seal = store.directory / "seals" / "2.json"
  content = seal.read_bytes()
  for place in range(0, len(content), 3):
    seal.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CheckpointError, match=r"2\.json"):
      store.check(2)


def test_with_no_good_step_left_the_error_names_every_file(store):
  victims = [step_files(store, step)[-1] for step in (1, 2)]
  flip(victims[0])
  remove(victims[1])
  with pytest.raises(CheckpointError, match="no intact checkpoint is left") as caught:
    store.restore_or_none()
  assert all(str(path) in str(caught.value) for path in victims)


def test_stopped_before_the_seal_the_step_does_not_count_and_is_written_anew(store, monkeypatch):
  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as context:
    context.setattr(checkpoints, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
      store.save(3, tree(3), {})
  assert (store.directory / "steps" / "3").is_dir()
  restored = store.restore()
  assert restored.step == 2
  assert restored.problems == (
    f"{store.directory}/steps/3 is not sealed: {store.directory}/seals/3.json is missing",
  )
  digest = store.save(3, tree(3), {})
  restored = store.restore()
  assert (restored.step, restored.digest, restored.problems) == (3, digest, ())


def test_half_written_folders_are_ignored_and_cleared_away(store):
  half = store.directory / "steps" / "3.orbax-checkpoint-tmp"
  half.mkdir()
  (half / "state").write_bytes(b"half")
  assert store.restore().step == 2
  store.save(3, tree(3), {})
  assert not half.exists()


def test_a_step_saved_again_replaces_the_old_one(store):
  assert store.save(2, tree(5), {"epoch": "again"}) != digest_arrays(checkpoints.flatten(tree(2)))
  assert store.restore().meta == {"epoch": "again"}
  np.testing.assert_array_equal(store.restore().state["params.kernel"], tree(5)["params"]["kernel"])


def test_only_the_newest_are_kept(store, tmp_path):
  store.save(3, tree(3), {})
  assert store.steps() == [2, 3]
  assert sorted(os.listdir(store.directory / "steps")) == ["2", "3"]
  everything = CheckpointStore(tmp_path / "all", keep=None)
  for step in range(3):
    everything.save(step, {"x": np.zeros(1)}, {})
  assert everything.steps() == [0, 1, 2]
  with pytest.raises(ValueError, match="keep must be at least 1"):
    CheckpointStore(tmp_path, keep=0)


def test_what_is_not_there(store, tmp_path):
  empty = CheckpointStore(tmp_path / "nowhere")
  assert empty.restore_or_none() is None
  with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*nowhere"):
    empty.restore()
  with pytest.raises(CheckpointError, match="there is no step 9 in"):
    store.restore(9)


def test_another_model_is_refused_with_every_difference():
  state = checkpoints.flatten(
    {"a": np.zeros(2), "b": np.zeros((2, 3), np.float32), "c": np.ones(1)}
  )
  template = {"a": np.zeros(2), "b": np.zeros((3, 2), np.float32), "d": np.zeros(1)}
  with pytest.raises(CheckpointError) as caught:
    checkpoints.unflatten(template, state)
  for part in ("d is missing", "c is left over", "b is float32[2, 3], expected float32[3, 2]"):
    assert part in str(caught.value)
  with pytest.raises(CheckpointError, match="a is float32"):
    checkpoints.unflatten({"a": np.zeros(2)}, {"a": np.zeros(2, np.float32)})


def test_the_digest_is_of_names_types_shapes_and_bits_but_not_of_order():
  state = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2)}
  others = [
    {"a": state["a"], "c": state["b"]},
    {"a": state["a"].reshape(3, 2), "b": state["b"]},
    {"a": state["a"].view(np.int32), "b": state["b"]},
    {"a": -state["a"], "b": state["b"]},  # -0.0 equals 0.0, but is not the same bits
    {"a": state["a"]},
  ]
  digests = [digest_arrays(other) for other in (state, *others)]
  assert len(set(digests)) == len(digests)
  assert digest_arrays(dict(reversed(state.items()))) == digests[0]
  transposed = {"a": np.asfortranarray(state["a"]), "b": state["b"]}
  assert digest_arrays(transposed) == digests[0]


def test_json_that_cannot_be_written_leaves_the_old_file_alone(tmp_path):
  path = tmp_path / "x.json"
  checkpoints.write_json(path, {"old": 1})
  with pytest.raises(TypeError):
    checkpoints.write_json(path, {"new": object()})
  assert os.listdir(tmp_path) == ["x.json"]
  assert json.loads(path.read_text()) == {"old": 1}


class Bomb:
  """Unpickling it makes a folder."""

  def __init__(self, target):
    self.target = str(target)

  def __reduce__(self):
    return os.mkdir, (self.target,)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax, on junk
def test_nothing_is_unpickled_even_under_a_seal_that_fits(saved, tmp_path):
  target = tmp_path / "exploded"
  pickle.loads(pickle.dumps(Bomb(target)))
  assert target.is_dir()  # the bomb works
  target.rmdir()
  bomb = pickle.dumps(Bomb(target))
  files = [path.relative_to(saved) for path in step_files(CheckpointStore(saved), 2)]
  for number, name in enumerate(files):
    store = CheckpointStore(shutil.copytree(saved, tmp_path / str(number)))
    (store.directory / name).write_bytes(bomb)
    (store.directory / "steps" / "2" / "state" / "extra.pkl").write_bytes(bomb)
    seal_path = store.directory / "seals" / "2.json"
    seal = json.loads(seal_path.read_text())
    del seal["checksum"]
    within = str(name.relative_to("steps/2"))
    seal["files"][within] = checkpoints.digest_file(store.directory / name)
    checkpoints.write_json(seal_path, seal | {"checksum": checkpoints.digest_json(seal)})
    assert store.restore().step in (1, 2)  # files that only mark completion do no harm
    assert not target.exists()
