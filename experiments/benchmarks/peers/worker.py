"""A process that runs one side of a pair: it answers each line on its input with one measurement."""

import importlib
import json
import os
import sys
from collections.abc import Iterator

from .cases import OURS, TORCHDISTILL, Job, Measurement

_MODULES = {OURS: "ours", TORCHDISTILL: "torchdistill_side"}


def measurements(job: Job) -> Iterator[dict | Measurement]:
  """What a side computed with (device and versions), and then one measurement after another."""
  name = _MODULES.get(job.side, "torch_side")
  side = importlib.import_module(f"{__package__}.{name}")
  yield side.facts(job)
  yield from side.measurements(job)


def main() -> int:
  job = Job(**json.loads(sys.argv[1]))
  if job.side == OURS:
    from . import ours

    ours.start()
  # What libraries print must not mix with the answers.
  answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  found = measurements(job)
  for _ in sys.stdin:
    answer = next(found)
    print(json.dumps(answer), file=answers, flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
