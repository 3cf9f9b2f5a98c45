"""Fills the teacher cache of a study, or verifies it against the live teacher.

python -m experiments.precompute CONFIG [--verify] [--workdir DIR] [overrides]
"""

import dataclasses
import sys
from collections.abc import Sequence

from kd_jax.teachers import cache as teacher_cache

from .command_line import console, options
from .command_line.wording import counted
from .pipeline.folder import open_folder
from .pipeline.teachers import Teachers


@dataclasses.dataclass(frozen=True)
class Options:
  """Of this command alone."""

  verify: bool = False
  """Recompute a sample of a finished cache with the live teacher and print the largest error."""
  sample: int = 64
  """How many examples --verify recomputes, under every view."""


def main(argv: Sequence[str] | None = None) -> int:
  study, where, own = options.parse("precompute", argv, Options)
  console.start(where)
  folder = open_folder(study, where)
  teachers = Teachers(folder, may_train=not own.verify)
  teacher, caches = teachers.teacher(), teachers.caches
  if not own.verify:
    cache, data = caches.fill(teacher), folder.domain.data
    console.say(
      f"cache {cache.digest[:12]}: {counted(data.views, 'views')} of {counted(len(data.train), 'examples')} in "
      f"{caches.directory(teacher)}"
    )
    return 0
  cache = caches.open(teacher)
  found = teacher_cache.verify(
    cache,
    caches.predictor(teacher),
    sample=own.sample,
    batch_size=folder.evaluation_batch_size,
  )
  verdict = "agrees with" if found.agrees else "DIFFERS from"
  console.say(
    f"the cache {verdict} the live teacher: largest error {found.largest_error:.3g} (allowed "
    f"{found.allowed_error:.3g}) at row {found.row}, view {found.view}, of {counted(found.compared, 'rows')}"
  )
  return 0 if found.agrees else 1


if __name__ == "__main__":
  sys.exit(console.run(main))
