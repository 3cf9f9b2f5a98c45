"""The whole job: teacher, cache, students, evaluation, report.

    python -m experiments.study CONFIG [--methods scratch kd ...] [--seeds 5] [--workdir DIR] [overrides]

`--vary annealing-kd.max-temperature 1 5 10` compares values of a method's option: a row for each.
Stopped at any moment, the same command goes on from the last finished epoch and skips what is done.
"""

import sys
from collections.abc import Sequence

from experiments import config, console, report
from experiments.evaluate import evaluate
from experiments.pipeline import Pipeline
from kd_jax import parallel


def main(argv: Sequence[str] | None = None) -> int:
  study, where, _ = config.parse("study", argv)
  console.start(where)
  pipeline = Pipeline(study, where)
  domain = pipeline.domain
  console.say(
    f"{study.name}: {domain.train.name} {domain.train.version}, {len(domain.train)} training, "
    f"{len(domain.validation)} validation and {len(domain.test)} test examples; "
    f"{len(study.rows)} methods × {study.seeds} seeds in {where.workdir}"
  )
  teacher = pipeline.teacher()
  pipeline.train_students(teacher, tuple(study.rows))
  evaluate(pipeline)
  if parallel.is_main():
    paths = report.write_report(where.workdir)
    results = report.load_results(where.workdir)
    console.show_table(*report.main_table(results))
    console.say(f"{report.chance(results)} {report.within_chance(results)}".strip())
    console.say(f"report: {', '.join(str(path) for path in paths)}")
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
