"""The time from the start of a process to the end of its first training step, compilation included."""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from kd_jax import parallel
from kd_jax._reading import DeviceData, StepBatch
from kd_jax.training import batches, cached_teacher
from kd_jax.training.loop import program_of
from kd_jax.training.step import step_of_seeds
from kd_jax.types import Outputs

from ..command_line import console
from . import bench


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
  command = [sys.executable, "-m", f"{__package__}.first_step", *argv]
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
  step = functools.partial(step_of_seeds, program_of(task, phase))
  run = parallel.epoch_runner(step, one_dispatch=task.one_dispatch, donate=True)
  (bucket,) = task.train.buckets
  seeds = np.asarray(task.seeds, np.uint32)
  data = DeviceData(
    bucket.inputs, bucket.labels, bucket.keys, teacher[0], seeds, np.int32(0), bucket.labelled
  )
  held = parallel.replicate(data)
  # A single step, in the form of an epoch.
  (plan,) = batches.plan_epoch(task.train.buckets, task.seeds, 0, task.batch_size)
  batch = StepBatch(parallel.shard(plan.rows[:1], axis=2))
  parallel.collect(run(parallel.replicate(state.train), held, batch)[1])
  print(time.time())
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
