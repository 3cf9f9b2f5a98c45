"""The time from the start of a process to the end of its first training step, compilation included."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from experiments.benchmarks import bench
from experiments.command_line import console
from kd_jax import parallel
from kd_jax.training.step import StepBatch, cached_teacher, device_data, make_train_step
from kd_jax.types import Outputs


def measure(argv: Sequence[str], starts: int) -> dict[str, list[float]]:
  """Seconds of fresh processes with an "empty" cache of compiled programs, and with the "filled" one.

  Raises:
    OSError: a process failed; its last lines say why.
  """
  found: dict[str, list[float]] = {"empty": [], "filled": []}
  for _ in range(starts):
    with tempfile.TemporaryDirectory() as cache:
      for seconds in found.values():
        seconds.append(start(argv, cache))
  return found


def start(argv: Sequence[str], cache: str) -> float:
  """Seconds to the first step of one process with a folder of compiled programs."""
  command = [sys.executable, "-m", "experiments.benchmarks.first_step", *argv]
  environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
  began = time.time()
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  if done.returncode:
    raise OSError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
  return float(done.stdout.split()[-1]) - began


def main(argv: Sequence[str] | None = None) -> int:
  """Takes one step and prints the time of day at its end."""
  study, where, options = bench.read(argv)
  console.start(where)
  task = bench.make_task(study, where, synthetic=options.synthetic)
  phase, state = bench.make_phase(study, task, epochs=1)
  shape = (len(task.train), task.views, task.train.num_classes)
  teacher = cached_teacher(Outputs(logits=np.zeros(shape, study.cache_dtype)))
  step = make_train_step(
    task.model,
    phase.objective,
    phase.optimizer.build(task.steps_per_epoch),
    teacher.outputs,
    task.augmentation,
    steps_per_epoch=task.steps_per_epoch,
    views=task.views,
  )
  run = parallel.epoch_runner(step, one_dispatch=task.one_dispatch, donate=True)
  (bucket,) = task.train.buckets
  held = parallel.replicate(device_data(bucket, teacher.of_bucket(0), task.seeds))
  # A single step, in the form of an epoch.
  rows = parallel.shuffled_rows(task.seeds, 0, len(task.train), task.batch_size)[:1]
  batch = StepBatch(parallel.shard(rows, axis=2), None)
  parallel.collect(run(parallel.replicate(state.train), held, batch)[1])
  print(time.time())
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
