"""Evaluates a finished study: the one place that reads the test set.

    python -m experiments.evaluate CONFIG [--workdir DIR] [overrides]

Writes WORKDIR/results.json: a row for each method, seed and phase, and the learning curves.
"""

import dataclasses
import datetime
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import config, console, runs
from experiments.latency import size_and_speed
from experiments.pipeline import Network, Pipeline
from kd_jax import parallel, recipes
from kd_jax.checkpoints import write_text
from kd_jax.data.labelled import num_labelled
from kd_jax.environment import Environment, distinct, environment
from kd_jax.optimizers import UNCHANGED
from kd_jax.teachers import predicting
from kd_jax.training.state import as_one_of, init_variables, one_seed

NOT_OF_THE_SETTING = (
  *("name", "task", "methods", "vary", "seeds", "seeds_together", "cache_dtype", "cache_outputs"),
  *("live_teacher", "paper", "papers", "official_examples"),
)
"""Of a study: what its published numbers do not depend on, or are chosen by."""
WEIGHTS = ("teacher_weights", "student_weights")


def main(argv: Sequence[str] | None = None) -> int:
  study, where, _ = config.parse("evaluate", argv)
  console.start(where)
  pipeline = Pipeline(study, where)
  pipeline.may_train = False
  results = evaluate(pipeline)
  console.say(f"{len(results['rows'])} rows in {where.workdir / 'results.json'}")
  return 0


def evaluate(pipeline: Pipeline) -> dict[str, Any]:
  """Reads every finished network, evaluates it on the test split, and writes results.json.

  Raises:
    ValueError: a run of the study is not finished.
  """
  study, domain = pipeline.study, pipeline.domain
  teacher = pipeline.teacher()
  finished = pipeline.finished_students(teacher)
  console.say("evaluating on the test split")
  said = predicting.predictions(
    teacher.model,
    teacher.variables,
    domain.test,
    domain.evaluation.predictions,
    pipeline.evaluation_batch_size,
  )
  on_test = pipeline.evaluator(domain.student, domain.test, said)
  rows, curves = [], []
  made_with = [*teacher.made_with]
  for method, seeds, phases in finished:
    epochs_before = 0
    for index, result in enumerate(phases):
      test = {
        "best": on_test(parallel.replicate(result.state.best)),
        "last": on_test(parallel.replicate(result.state.train.variables)),
      }
      for k, seed in enumerate(seeds):
        if seed >= study.seeds:
          continue  # of an earlier, larger study
        last = index == len(phases) - 1
        rows.append(_row(pipeline, method, seed, k, result, test, last))
        curves += _curve(method, seed, k, result, epochs_before)
      epochs_before += result.phase.epochs
      made_with += result.made_with
  order = {method: index for index, method in enumerate(study.rows)}
  rows.sort(key=lambda row: (order[row["method"]], row["seed"]))
  results = _header(pipeline, teacher, made_with) | {"rows": rows, "curves": curves}
  if parallel.is_main():
    write_text(pipeline.root / "results.json", to_json(results))
    pipeline.mark()
  return results


def to_json(results: dict[str, Any]) -> str:
  """JSON with a line for each field, and for each row and point of a curve."""
  fields = []
  for name, value in results.items():
    if isinstance(value, list):
      lines = ",\n  ".join(json.dumps(item) for item in value)
      fields.append(f'"{name}": [\n  {lines}\n ]')
    else:
      fields.append(f'"{name}": {json.dumps(value)}')
  return "{\n " + ",\n ".join(fields) + "\n}\n"


def _row(pipeline, method: str, seed: int, k: int, result: runs.PhaseResult, test, last: bool):
  seconds = [record.seconds for record in result.history]
  examples = result.examples_per_epoch
  seeds = len(result.state.best_epoch)
  # The first epoch compiles.
  typical = float(np.median(seconds[1:] or seconds))
  return {
    "method": method,
    "seed": seed,
    "phase": result.phase.name,
    "epochs": result.phase.epochs,
    "final": last,
    "best_epoch": int(result.state.best_epoch[k]),
    "validation": {
      "best": float(result.state.best_score[k]),
      "last": result.history[-1].validation[k],
    },
    "test": {
      which: {name: float(values[k]) for name, values in found.items()}
      for which, found in test.items()
    },
    "digest": result.digest,
    "timing": {
      "seconds": sum(seconds) / seeds,
      "examples_per_second": examples * seeds / typical,
      "seeds_together": seeds,
      "device": jax.devices()[0].device_kind,
    },
  }


def _curve(method: str, seed: int, k: int, result: runs.PhaseResult, epochs_before: int):
  for record in result.history:
    yield {
      "method": method,
      "seed": seed,
      "phase": result.phase.name,
      "epoch": record.epoch,
      "global_epoch": epochs_before + record.epoch,
      "train_loss": record.train_loss[k],
      f"validation_{record.metric}": record.validation[k],
      "terms": {name: values[k] for name, values in record.terms.items()},
      "schedules": record.schedules,
      "learning_rate": record.learning_rate,
    }


def _header(pipeline: Pipeline, teacher: Network, made_with: list[Environment]) -> dict[str, Any]:
  study, domain = pipeline.study, pipeline.domain
  train, header = domain.train, domain.header()
  example = jax.tree.map(lambda x: x[:1], train.buckets[0].inputs)
  student = domain.build(domain.student)
  # Neither size nor speed depends on the values.
  variables = one_seed(init_variables(student, example, (0,)), 0)
  assistants = [m for m in study.rows if pipeline.recipes[m].assistant is not None]
  made_with = [*made_with, *(e for m in assistants for e in pipeline.assistant(m).made_with)]
  return {
    "schema_version": 1,
    "study": study.name,
    "complete": True,
    "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": shlex.join(["python", "-m", "experiments.study", *sys.argv[1:]]),
    "config": {
      key: value for key, value in config.plain(study).items() if key not in ("paper", "papers")
    },
    "device": {
      "platform": jax.default_backend(),
      "kind": jax.devices()[0].device_kind,
      "count": jax.device_count(),
      "processes": jax.process_count(),
      "cpu_cores": os.cpu_count(),
    },
    "versions": environment(),
    # Of everything that was trained; the versions above are those of the evaluation.
    "made_with": distinct(made_with),
    "dataset": {
      "name": train.name,
      "version": train.version,
      "train": len(train),
      **_label_counts(train),
      **(
        {}
        if domain.teacher_train is None
        else {"teacher_train": num_labelled(domain.teacher_train)}
      ),
      "validation": len(domain.validation),
      "test": len(domain.test),
      "fingerprint": train.fingerprint,
      **header.pop("dataset"),
    },
    **header,
    "teacher": _network_row(pipeline, teacher),
    "assistant": _network_row(pipeline, pipeline.assistant(assistants[0])) if assistants else None,
    "student": {
      "model": domain.label(domain.student),
      **({"source": domain.student_source} if domain.student_source else {}),
      **size_and_speed(student, variables, domain.test),
    },
    "methods": {method: _method_row(pipeline, method) for method in study.rows},
    "paper": published(
      study, num_labelled(train) + len(domain.validation), domain.official_examples
    ),
  }


def _label_counts(train: Any) -> dict[str, int]:
  """How many training examples have labels and how many have none; empty if all have."""
  if train.labelled is None:
    return {}
  return {"labelled": num_labelled(train), "unlabelled": len(train) - num_labelled(train)}


def published(study: config.Study, num_examples: int, official: int) -> dict[str, Any] | None:
  """The published numbers, and in which settings this run differs from the configuration they stand in."""
  if study.paper is None:
    return None
  asked = _comparable(config.configs().get(study.name, study))
  differing = [name for name, value in _comparable(study).items() if value != asked.get(name)]
  if num_examples < official:
    differing.append("fewer training examples")
  return config.plain(study.paper) | {"differing": differing}


def _comparable(study: config.Study) -> dict[str, Any]:
  """What two runs must share for their numbers to be comparable; weights count by name, wherever they lie."""
  values = {
    field.name: getattr(study, field.name)
    for field in dataclasses.fields(study)
    if field.name not in NOT_OF_THE_SETTING
  }
  weights = {name: Path(value).name for name, value in values.items() if name in WEIGHTS and value}
  return values | weights


def _method_row(pipeline: Pipeline, method: str) -> dict[str, Any]:
  recipe = pipeline.recipes[method]
  row = pipeline.study.rows[method]
  given = {} if row.settings is None else vars(row.settings)
  settings = {n: config.plain(value) for n, value in given.items() if value != UNCHANGED}
  return {
    "method": row.method,
    "title": recipe.title,
    "equation": recipe.equation,
    "reference": recipe.reference,
    "settings": settings,
    "phases": [{"name": phase.name, "epochs": phase.epochs} for phase in recipe.phases],
    "description": recipes.describe(recipe)["phases"],
  }


def _network_row(pipeline: Pipeline, network: Network) -> dict[str, Any]:
  domain = pipeline.domain
  evaluate_on_test = pipeline.evaluator(network.spec, domain.test)
  on_test = evaluate_on_test(parallel.replicate(as_one_of(network.variables)))
  return {
    "model": domain.label(network.spec),
    "source": network.source,
    **size_and_speed(network.model, network.variables, domain.test),
    # None of an imported network: it may have learnt from the very examples that are held out here.
    f"validation_{domain.evaluation.select}": network.validation,
    **{f"test_{name}": float(value[0]) for name, value in on_test.items()},
    "seconds": network.seconds,
    "digest": network.digest,
  }


if __name__ == "__main__":
  sys.exit(console.run(main))
