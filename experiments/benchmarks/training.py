"""How fast a study trains on this machine, with its teacher cached and alive.

    python -m experiments.benchmarks.training [CONFIG] [--train-limit N] [--views V] [--repeats 5] [overrides]

Checkpoints lie in the temporary folder ($TMPDIR): it is that folder's disk that is measured.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import flax
import jax
import numpy as np
import orbax.checkpoint

from kd_jax.checkpoints import CheckpointStore, unflatten, write_json
from kd_jax.models.spec import build_model
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.sources import Teacher, cached_teacher, live_teacher
from kd_jax.training.loop import EpochReport, Task, train_phase

from ..command_line import console
from ..domains.image_study import ImageStudy
from ..domains.study import plain
from . import bench, first_step

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
Quantity = tuple[str, str, list[float]]
"""(name, unit, a value for each repeat)."""


def main(argv: Sequence[str] | None = None) -> int:
  arguments = list(sys.argv[1:] if argv is None else argv)
  study, where, options = bench.read(arguments)
  # First, while this process holds no device; console.say would take one, to ask which process it is in.
  print(f"first step: {2 * options.starts} fresh processes", flush=True)
  starts = first_step.measure(arguments, options.starts)
  console.start(where)
  task = bench.make_task(study, where, synthetic=options.synthetic)
  with tempfile.TemporaryDirectory() as folder:
    teachers, found = _teachers(study, task, Path(folder))
    seconds, report = _epochs(study, task, teachers, options.repeats)
    images = task.steps_per_epoch * task.batch_size * len(task.seeds)
    for name, values in seconds.items():
      found.append((f"annealing epoch, {name} teacher", "images/s", [images / s for s in values]))
    pairs = zip(seconds["live"], seconds["cached"], strict=True)
    found.append(("annealing epoch, cached / live", "ratio", [live / own for live, own in pairs]))
    epoch = float(np.median(seconds["cached"]))
    found += _checkpoints(Path(folder), report, options.repeats, epoch)
  found += [(f"first step, {name} compile cache", "s", values) for name, values in starts.items()]
  rows = [
    {"name": name, "unit": unit, "values": values}
    | {"median": float(np.median(values)), "min": min(values), "max": max(values)}
    for name, unit, values in found
    if values
  ]
  kind = jax.devices()[0].device_kind
  out = options.out or RESULTS / f"{study.name}-{re.sub(r'[^a-z0-9]+', '-', kind.lower())}.json"
  header = {
    "config": study.name,
    "device": {"platform": jax.default_backend(), "kind": kind, "count": jax.device_count()},
    "versions": {m.__name__: m.__version__ for m in (jax, flax, orbax.checkpoint, np)},
    "images": len(task.train),
    "seeds_together": len(task.seeds),
    "checkpoint_bytes": sum(np.asarray(x).nbytes for x in jax.tree.leaves(report.state)),
    "synthetic": options.synthetic,
    "study": {key: value for key, value in plain(study).items() if key != "paper"},
  }
  write_json(out, header | {"measurements": rows})
  keys = ("median", "min", "max")
  cells = [[row["name"], row["unit"], *(f"{row[key]:,.4g}" for key in keys)] for row in rows]
  console.show_table(["Measurement", "Unit", *keys], cells)
  console.say(f"written to {out}")
  return 0


def _teachers(
  study: ImageStudy, task: Task, folder: Path
) -> tuple[dict[str, Teacher], list[Quantity]]:
  """The teacher from its cache and alive; and how fast the cache was filled, a view of a chunk at a time."""
  model = build_model(study.teacher, task.train.num_classes)
  variables = bench.teacher_variables(model, task.train.images)
  settings, augmentation = plain(study.teacher), study.augmentation
  spec = teacher_cache.make_spec(
    "untrained", settings, task.train, augmentation, study.views, dtype=study.cache_dtype
  )
  predict = predicting.predictor(model, variables, task.train, augmentation)
  batch_size = study.batch_size * max(1, 512 // study.batch_size)
  predict(np.arange(1), 0, batch_size)  # compiles
  rates: list[float] = []

  def timed(rows, view, batch_size):
    began = time.perf_counter()
    arrays = predict(rows, view, batch_size)
    rates.append(len(rows) / (time.perf_counter() - began))
    return arrays

  with console.Progress("precompute", spec.num_examples * spec.views, "rows") as progress:
    chunks = teacher_cache.precompute(
      folder / "cache", spec, timed, batch_size=batch_size, chunk_rows=1024
    )
    for state in chunks:
      progress.to(state.done)
  outputs = teacher_cache.open_cache(folder / "cache", spec).outputs
  teachers = {"cached": cached_teacher(outputs), "live": live_teacher(model, variables)}
  return teachers, [("precompute", "images/s", rates)]


def _epochs(
  study: ImageStudy, task: Task, teachers: dict[str, Teacher], repeats: int
) -> tuple[dict[str, list[float]], EpochReport]:
  """Seconds of each epoch but the first, by teacher; and the last report."""
  phase, state = bench.make_phase(study, task, repeats + 1)
  runs: dict[str, Iterator[EpochReport]] = {
    name: train_phase(task, phase, state, teacher) for name, teacher in teachers.items()
  }
  found: dict[str, list[float]] = {name: [] for name in runs}
  with console.Progress("annealing", len(runs) * (repeats + 1), "epochs") as progress:
    # In turn, so that whatever else the machine does meets both alike.
    for epoch in range(repeats + 1):
      for name, run in runs.items():
        report = next(run)
        found[name] += [report.seconds] if epoch else []
        progress.advance(1, name)
  return found, report


def _checkpoints(folder: Path, report: EpochReport, repeats: int, epoch: float) -> list[Quantity]:
  """The cost of saving the loop's state as a run does, beside an epoch's; and of reading it back."""
  store = CheckpointStore(folder / "checkpoints")
  meta = {"history": [report.record.to_json()] * report.epoch}

  def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began

  saved, restored = [], []
  for step in range(repeats + 1):
    saved.append(seconds(lambda step=step: store.save(step, report.state, meta)))
    restored.append(seconds(lambda: unflatten(report.state, store.restore().state)))
  share = [100 * value / epoch for value in saved[1:]]
  return [
    ("checkpoint, save", "s", saved[1:]),
    ("checkpoint, save / cached epoch", "%", share),
    ("checkpoint, restore", "s", restored[1:]),
  ]


if __name__ == "__main__":
  sys.exit(console.run(main))
