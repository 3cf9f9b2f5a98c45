"""Checkpoints after a crash, with damaged files, and of another shape than expected."""

import json
import os
import pickle
import resource
import shutil
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import _checkpoint_folders as checkpoint_folders, _files as files, checkpoints
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


@pytest.mark.parametrize(
  ("state", "words"),
  [
    ({"a.b": np.ones(2), "a": {"b": np.zeros(2)}}, "['a']['b'] and ['a.b'] have one name, 'a.b'"),
    ({"a": [np.ones(2)], "a.0": np.ones(2)}, "['a'][0] and ['a.0'] have one name, 'a.0'"),
  ],
)
def test_names_that_collide_are_refused(tmp_path, state, words):
  store = CheckpointStore(tmp_path)
  for call in (lambda: store.save(1, state, {}), lambda: checkpoints.unflatten(state, {})):
    with pytest.raises(CheckpointError) as caught:
      call()
    assert str(caught.value) == f"{words}: rename a module"
  assert store.steps() == []


def test_arrays_of_size_zero_are_kept(tmp_path):
  state = {
    "best": {"none": np.zeros((0, 2), np.int32), "w": np.zeros(3)},
    "empty": jnp.zeros((2, 0, 3), "bfloat16"),
    "w": np.ones(3),
  }
  store = CheckpointStore(tmp_path, apart=["best"])
  digest = store.save(1, state, {})
  for found in (store.restore(), CheckpointStore(tmp_path, apart=["best"]).restore()):
    assert found.digest == digest == digest_arrays(found.state)
    again = checkpoints.unflatten(state, found.state)
    assert again["empty"].dtype == jnp.bfloat16
    assert again["best"]["none"].shape == (0, 2)


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
  names = [path.relative_to(saved) for path in step_files(CheckpointStore(saved), 2)]
  for number, name in enumerate(names):
    store = CheckpointStore(shutil.copytree(saved, tmp_path / str(number)))
    (store.directory / name).write_bytes(bomb)
    (store.directory / "steps" / "2" / "state" / "extra.pkl").write_bytes(bomb)
    seal_path = store.directory / "seals" / "2.json"
    seal = json.loads(seal_path.read_text())
    del seal["checksum"]
    within = str(name.relative_to("steps/2"))
    seal["files"][within] = files.checksum_file(store.directory / name)
    checkpoints.write_json(seal_path, seal | {"checksum": checkpoints.digest_json(seal)})
    assert store.restore().step in (1, 2)  # files that only mark completion do no harm
    assert not target.exists()


# Branches that change seldom.


def loop(epoch, best):
  """What an epoch leaves: weights, the optimiser's state, and the weights of the best epoch."""
  weights = {"w": np.arange(6, dtype=np.float32) + 10 * epoch}
  kept = {"w": np.arange(6, dtype=np.float32) + 10 * best}
  return {"train": {"weights": weights, "momentum": np.full(6, epoch)}, "best": kept}


def parts_of(store):
  return sorted(path.name for path in (store.directory / "parts").glob("*"))


def test_a_branch_apart_is_written_only_when_it_has_changed(tmp_path):
  store = CheckpointStore(tmp_path / "store", apart=("best",))
  digests, seen, written = [], [], []
  for epoch, best in enumerate((1, 1, 1, 4, 4), start=1):
    digests.append(store.save(epoch, loop(epoch, best), {}))
    seen.append(parts_of(store))
    files_of = [p for p in (store.directory / "parts").rglob("*") if p.is_file()]
    written.append({path.stat().st_mtime_ns for path in files_of})
    # Read by another process or by this one, it is whole.
    for reader in (store, CheckpointStore(store.directory)):
      np.testing.assert_array_equal(reader.restore().state["best.w"], loop(0, best)["best"]["w"])
  # In the first and the fourth epoch the best is the last; until the third, the first's best is needed.
  assert [len(names) for names in seen] == [0, 1, 1, 1, 1]
  assert seen[1] == seen[2] == seen[3] != seen[4]
  assert written[1] == written[2] == written[3]
  plain = CheckpointStore(tmp_path / "plain", keep=None)
  assert digests == [
    plain.save(epoch, loop(epoch, best), {}) for epoch, best in enumerate((1, 1, 1, 4, 4), start=1)
  ]


def test_a_damaged_part_is_named(tmp_path):
  store = CheckpointStore(tmp_path, apart=("best",))
  store.save(1, loop(1, 1), {})
  store.save(2, loop(2, 1), {})
  (part,) = (store.directory / "parts").glob("*")
  victim = max((p for p in part.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  flip(victim)
  restored = store.restore()
  assert restored.step == 1  # whose best is its last
  assert str(victim) in restored.problems[0]
  # Going on from there does not rely on the damaged part.
  store.save(2, loop(2, 1), {})
  assert store.restore().step == 2
  assert store.restore().problems == ()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_part_that_a_new_process_finds_is_used_again(tmp_path, resumed):
  store = CheckpointStore(tmp_path, apart=("best",))
  for epoch in (1, 2):
    store.save(epoch, loop(epoch, 1), {})
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").rglob("*") if p.is_file()}
  assert before
  if resumed:
    store = CheckpointStore(tmp_path, apart=("best",))
    store.restore()
  store.save(3, loop(3, 1), {})
  assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").rglob("*") if p.is_file()}


def last_epoch(store):
  finished = {"train": {"weights": loop(3, 1)["train"]["weights"]}, "best": loop(3, 1)["best"]}
  return store.save(3, finished, {"finished": True}, keep=1)


def layout(directory):
  """Which seals, steps and parts there are."""
  return sorted(str(path.relative_to(directory)) for path in directory.glob("*/*"))


def test_killed_at_any_point_of_the_last_save_a_store_goes_on(tmp_path, monkeypatch):
  """Copies of the folder, taken before and after all that a save does, and amid each removal."""
  store = CheckpointStore(tmp_path / "store", apart=("best",))
  for epoch in (1, 2):
    store.save(epoch, loop(epoch, 1), {})
  before = store.restore().digest
  copies = []

  def copy():
    copies.append(shutil.copytree(store.directory, tmp_path / f"copy{len(copies)}"))

  def watched(function):
    def call(*arguments, **options):
      copy()
      result = function(*arguments, **options)
      copy()
      return result

    return call

  def half_removed(path, ignore_errors=False, rmtree=shutil.rmtree):
    found = [p for p in checkpoints.pathlib.Path(path).rglob("*") if p.is_file()]
    if found:
      found[0].unlink()
      copy()
    rmtree(path, ignore_errors)

  with monkeypatch.context() as context:
    for module, name in (
      (checkpoints, "_delete"),
      (checkpoints, "write_json"),
      (checkpoint_folders, "write"),
    ):
      context.setattr(module, name, watched(getattr(module, name)))
    context.setattr(checkpoints.shutil, "rmtree", half_removed)
    digest = last_epoch(store)
  assert len(copies) > 12
  assert store.steps() == [3]
  found = []
  for folder in copies:
    again = CheckpointStore(folder, apart=("best",))
    restored = again.restore()
    found.append(restored.step)
    assert restored.digest == {2: before, 3: digest}[restored.step]
    if restored.step == 3:
      again.drop_superseded()
    else:
      assert last_epoch(again) == digest
    assert again.restore()._replace(state=None) == store.restore()._replace(state=None)
    assert layout(folder) == layout(store.directory)
  assert found == sorted(found)
  assert set(found) == {2, 3}


# In the background.


@pytest.fixture
def slow_disk(monkeypatch):
  """All states count as large, and a save waits for the test: (begun, go on)."""
  monkeypatch.setattr(checkpoints, "BACKGROUND_BYTES", 0)
  begun, go_on = threading.Event(), threading.Event()
  write = checkpoint_folders.write

  def slow(*arguments):
    begun.set()
    assert go_on.wait(30)
    return write(*arguments)

  monkeypatch.setattr(checkpoint_folders, "write", slow)
  yield begun, go_on
  go_on.set()


def test_a_save_in_the_background_counts_when_it_is_sealed(store, slow_disk, tmp_path):
  begun, go_on = slow_disk
  assert store.save(3, tree(3), {"epoch": 3}, background=True) is None
  assert begun.wait(30)
  # Killed now, the step before is there.
  copy = CheckpointStore(shutil.copytree(store.directory, tmp_path / "killed"))
  assert copy.restore().step == 2
  go_on.set()
  store.wait()
  restored = store.restore()
  assert (restored.step, restored.meta) == (3, {"epoch": 3})
  assert restored.digest == digest_arrays(checkpoints.flatten(tree(3)))


def test_no_more_than_one_save_is_in_flight(store, slow_disk):
  _, go_on = slow_disk
  store.save(3, tree(3), {}, background=True)
  second = threading.Thread(target=store.save, args=(4, tree(4), {}), kwargs={"background": True})
  second.start()
  second.join(0.2)
  assert second.is_alive()  # it waits for the first
  assert store.steps() == [1, 2]
  go_on.set()
  second.join(30)
  store.wait()
  assert store.steps() == [3, 4]


def test_small_states_are_written_at_once(store):
  assert store.save(3, tree(3), {}, background=True) is not None
  assert CheckpointStore(store.directory).restore().step == 3


# The disk.


@pytest.fixture
def full_disk():
  """No file can grow beyond a few kilobytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(store, full_disk, capfd, caplog):
  large = {"w": np.random.default_rng(0).standard_normal(10_000)}
  with pytest.raises(CheckpointError) as caught:
    store.save(3, large, {})
  assert "steps/3 could not be written: File too large; with space on the disk" in str(caught.value)
  assert "\n" not in str(caught.value)
  assert capfd.readouterr() == ("", "")
  assert not caplog.records
  assert sorted(os.listdir(store.directory / "steps")) == ["1", "2"]
  assert store.restore().step == 2


def test_an_error_in_the_background_is_raised_once_by_the_next_call(store, full_disk, monkeypatch):
  monkeypatch.setattr(checkpoints, "BACKGROUND_BYTES", 0)
  store.save(3, {"w": np.random.default_rng(0).standard_normal(10_000)}, {}, background=True)
  with pytest.raises(CheckpointError, match=r"steps/3 could not be written: File too large"):
    store.save(4, tree(4), {}, background=True)
  store.wait()
  assert store.restore().step == 2


def test_a_text_that_cannot_be_written_leaves_no_temporary_file(tmp_path, full_disk):
  path = tmp_path / "x.txt"
  files.write_text(path, "old")
  with pytest.raises(OSError, match="File too large"):
    files.write_text(path, "new" * 10_000)
  assert os.listdir(tmp_path) == ["x.txt"]
  assert path.read_text() == "old"


def test_the_seal_is_written_after_the_data_are_on_disk(store, monkeypatch):
  synced = []
  monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
  store.save(3, tree(3), {})
  folder = store.directory / "steps" / "3"
  (seal,) = (i for i, path in enumerate(synced) if ".3.json." in path)
  assert {str(p) for p in [*folder.rglob("*"), folder, folder.parent]} <= set(synced[:seal])
  assert synced[seal + 1] == str(store.directory / "seals")


# Other versions, and what users put there.


def sealed_anew(store, step, change):
  """Changes a seal, with a checksum that fits."""
  path = store.directory / "seals" / f"{step}.json"
  seal = json.loads(path.read_text())
  del seal["checksum"]
  seal = change(seal)
  files.write_json(path, seal | {"checksum": files.digest_json(seal)})


def test_steps_of_the_first_format_are_read_and_damage_is_named(store):
  """It had SHA-256 sums of files, and neither parts nor sums of arrays."""

  def first_format(seal):
    path = store.directory / "steps" / "2"
    return {
      "step": seal["step"],
      "digest": "of another kind",
      "arrays": {name: record[:2] for name, record in seal["arrays"].items()},
      "files": {name: checkpoints.digest_file(path / name) for name in seal["files"]},
    }

  expected = store.restore().state
  sealed_anew(store, 2, first_format)
  restored = store.restore()
  assert (restored.step, restored.digest, restored.problems) == (2, "of another kind", ())
  assert store.check(2) == "of another kind"
  for name, array in expected.items():
    np.testing.assert_array_equal(restored.state[name], array)
  victim = step_files(store, 2)[-1]
  flip(victim)
  assert str(victim) in store.restore().problems[0]


def test_a_newer_format_is_refused_in_one_line(store):
  for step in (1, 2):
    sealed_anew(store, step, lambda seal: {"format": 3, "content": "unheard of"})
  with pytest.raises(CheckpointError, match="is of format 3, this version reads up to 2"):
    store.restore()


def test_what_a_user_puts_there_is_ignored_and_left_alone(store):
  mine = ["steps/2.bak", "steps/02", "seals/2 (copy).json", "seals/02.json", "seals/notes.txt"]
  mine += ["parts/best-mine", "steps/2/notes.txt"]
  for name in mine:
    path = store.directory / name
    if path.suffix:
      path.write_text("mine")
    else:
      path.mkdir(parents=True)
  assert store.steps() == [1, 2]
  assert store.restore().problems == ()
  store.save(3, tree(3), {})
  store.save(4, tree(4), {})
  assert store.steps() == [3, 4]
  for name in mine[:-1]:
    assert (store.directory / name).exists(), name
