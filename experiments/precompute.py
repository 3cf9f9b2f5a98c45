"""Fills the teacher cache of a study, or verifies it against the live teacher.

python -m experiments.precompute CONFIG [--verify] [--workdir DIR] [overrides]
"""

import dataclasses
import sys
from collections.abc import Sequence

from experiments.command_line import console, options
from experiments.pipeline.students import Pipeline
from kd_jax.teachers import cache as teacher_cache


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
  pipeline = Pipeline(study, where)
  pipeline.may_train = not own.verify
  teacher = pipeline.teacher()
  if not own.verify:
    cache = pipeline.precompute(teacher)
    console.say(
      f"cache {cache.digest[:12]}: {pipeline.domain.views} views of {len(pipeline.domain.train)} examples in "
      f"{pipeline.cache_dir(teacher)}"
    )
    return 0
  cache = pipeline.open_cache(teacher)
  found = teacher_cache.verify(
    cache,
    pipeline.predictor(teacher),
    sample=own.sample,
    batch_size=pipeline.evaluation_batch_size,
  )
  verdict = "agrees with" if found.agrees else "DIFFERS from"
  console.say(
    f"the cache {verdict} the live teacher: largest error {found.largest_error:.3g} (allowed "
    f"{found.allowed_error:.3g}) at row {found.row}, view {found.view}, of {found.compared} rows"
  )
  return 0 if found.agrees else 1


if __name__ == "__main__":
  sys.exit(console.run(main))
