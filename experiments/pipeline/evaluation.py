"""Evaluates the networks of a finished study on the test set, which is read here alone.

WORKDIR/results.json    a row for each method, seed and phase, and the learning curves
"""

import dataclasses
import datetime
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kd_jax import parallel, recipes
from kd_jax.checkpoints import write_text
from kd_jax.data.labelled import num_labelled
from kd_jax.environment import Environment, distinct, environment
from kd_jax.optimizers import UNCHANGED
from kd_jax.teachers import predicting
from kd_jax.training.state import as_one_of, init_variables, one_seed

from ..command_line import console
from ..command_line.naming import call_of
from ..command_line.options import configs
from ..deployment.latency import size_and_speed
from ..domains import tracing
from ..domains.domain import Examples
from ..domains.study import Study, plain
from ..reporting.results import to_json
from . import runs
from .folder import Folder
from .networks import Network
from .students import Students
from .teachers import Teachers

NOT_OF_THE_SETTING = (
  *(
    "name",
    "quick",
    "task",
    "methods",
    "vary",
    "seeds",
    "first_seed",
    "seeds_together",
    "cache_dtype",
  ),
  *("cache_outputs", "live_teacher", "paper", "papers", "official_examples"),
)
"""Of a study: what its published numbers do not depend on, or are chosen by."""
WEIGHTS = ("teacher_weights", "student_weights")


def evaluate(students: Students) -> dict[str, Any]:
  """Reads every finished network, evaluates it on the test split, and writes results.json.

  Raises:
    ValueError: a network of the study is not finished.
  """
  folder, teachers = students.folder, students.teachers
  study, domain, teacher = folder.study, folder.domain, teachers.teacher()
  finished = students.finished()
  console.say("evaluating on the test split")
  said = predicting.predictions(
    teacher.model,
    teacher.variables,
    domain.data.test,
    domain.evaluation.predictions,
    folder.evaluation_batch_size,
  )
  on_test = folder.evaluator(domain.networks.student, domain.data.test, said)
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
        if seed not in study.seed_values:
          continue  # of an earlier study of other seeds
        facts = {"method": method, "seed": seed, "phase": result.phase.name}
        final = {"final": index == len(phases) - 1}
        rows.append(facts | _row(k, result, test) | final)
        curves += [facts | point for point in _curve(k, result, epochs_before)]
      epochs_before += result.phase.epochs
      made_with += result.made_with
  order = {method: index for index, method in enumerate(study.rows)}
  rows.sort(key=lambda row: (order[row["method"]], row["seed"]))
  results = _header(folder, teachers, made_with) | {"rows": rows, "curves": curves}
  if parallel.is_main():
    write_text(folder.root / "results.json", to_json(results))
    folder.mark()
  return results


def _row(
  k: int, result: runs.PhaseResult, test: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, Any]:
  seconds = [record.seconds for record in result.history]
  examples = result.examples_per_epoch
  seeds = len(result.state.best_epoch)
  # The first epoch compiles.
  typical = float(np.median(seconds[1:] or seconds))
  return {
    "epochs": result.phase.epochs,
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


def _curve(k: int, result: runs.PhaseResult, epochs_before: int) -> Iterator[dict[str, Any]]:
  for record in result.history:
    yield {
      "epoch": record.epoch,
      "global_epoch": epochs_before + record.epoch,
      "train_loss": record.train_loss[k],
      f"validation_{record.metric}": record.validation[k],
      "terms": {name: values[k] for name, values in record.terms.items()},
      "schedules": record.schedules,
      "learning_rate": record.learning_rate,
    }


def _header(folder: Folder, teachers: Teachers, made_with: list[Environment]) -> dict[str, Any]:
  study, domain, data = folder.study, folder.domain, folder.domain.data
  train, header = data.train, domain.header
  student = domain.networks.build(domain.networks.student, None)
  # Neither size nor speed depends on the values.
  variables = one_seed(init_variables(student, tracing.example(train), (0,)), 0)
  initial = domain.networks.initial("student", teachers.teacher().variables["params"])
  with_assistant = [row for row in study.rows if folder.recipes[row].assistant is not None]
  assistants = [teachers.assistant(row) for row in with_assistant]
  made_with = [*made_with, *(each for network in assistants for each in network.made_with)]
  return {
    "schema_version": 1,
    "study": study.name,
    "complete": True,
    "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": shlex.join([*call_of("study"), *sys.argv[1:]]),
    "config": {key: value for key, value in plain(study).items() if key not in ("paper", "papers")},
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
      **_given("teacher_train", data.teacher_train and num_labelled(data.teacher_train)),
      "validation": len(data.validation),
      "test": len(data.test),
      "fingerprint": train.fingerprint,
      "validation_fingerprint": data.validation.fingerprint,
      "test_fingerprint": data.test.fingerprint,
      **header.dataset,
      "notes": list(folder.notes),
    },
    "metric": header.metric,
    **_given("case", header.case),
    "teacher": _network_row(folder, teachers.teacher()),
    "assistant": _network_row(folder, assistants[0]) if assistants else None,
    "student": {
      "model": domain.networks.label(domain.networks.student),
      **_given("source", header.student_source or None),
      # Of weights from outside the study; the teacher's own have its digest.
      **_given("start_digest", initial and initial.link and initial.link.digest),
      **size_and_speed(student, variables, data.test),
    },
    "methods": {row: _method_row(folder, teachers, row) for row in study.rows},
    "paper": published(study, num_labelled(train) + len(data.validation), header.official_examples),
  }


def _given(name: str, value: Any) -> dict[str, Any]:
  """The field, if it has a value."""
  return {} if value is None else {name: value}


def _label_counts(train: Examples) -> dict[str, int]:
  """How many training examples have labels and how many have none; empty if all have."""
  if train.labelled is None:
    return {}
  return {"labelled": num_labelled(train), "unlabelled": len(train) - num_labelled(train)}


def published(study: Study, num_examples: int, official: int) -> dict[str, Any] | None:
  """The published numbers, and in which settings this run differs from the configuration they stand in."""
  if study.paper is None:
    return None
  asked = _comparable(configs().get(study.name, study))
  differing = [name for name, value in _comparable(study).items() if value != asked.get(name)]
  if num_examples < official:
    differing.append("fewer training examples")
  return plain(study.paper) | {"differing": differing}


def _comparable(study: Study) -> dict[str, Any]:
  """What two runs must share for their numbers to be comparable; weights count by name, wherever they lie."""
  values = {
    field.name: getattr(study, field.name)
    for field in dataclasses.fields(study)
    if field.name not in NOT_OF_THE_SETTING
  }
  weights = {name: Path(value).name for name, value in values.items() if name in WEIGHTS and value}
  return values | weights


def _method_row(folder: Folder, teachers: Teachers, name: str) -> dict[str, Any]:
  recipe, row = folder.recipes[name], folder.study.rows[name]
  assistant = None if recipe.assistant is None else teachers.assistant(name).digest
  given = {} if row.settings is None else vars(row.settings)
  settings = {n: plain(value) for n, value in given.items() if value != UNCHANGED}
  return {
    "method": row.method,
    "title": recipe.title,
    "equation": recipe.equation,
    "reference": recipe.reference,
    "settings": settings,
    "phases": [{"name": phase.name, "epochs": phase.epochs} for phase in recipe.phases],
    "description": recipes.describe(recipe)["phases"],
    **_given("assistant_digest", assistant),
  }


def _network_row(folder: Folder, network: Network) -> dict[str, Any]:
  domain, test = folder.domain, folder.domain.data.test
  on_test = folder.evaluator(network.spec, test)(parallel.replicate(as_one_of(network.variables)))
  return {
    "model": domain.networks.label(network.spec),
    "source": network.source,
    **size_and_speed(network.model, network.variables, test),
    # None of an imported network: it may have learnt from the very examples that are held out here.
    f"validation_{domain.evaluation.select}": network.validation,
    **{f"test_{name}": float(value[0]) for name, value in on_test.items()},
    "seconds": network.seconds,
    "digest": network.digest,
    "made_from": list(network.made_from),
  }
