"""The command `kd-jax`: how it is packaged, what it answers, and what it does with a stranger's terminal."""

import importlib
import importlib.util
import io
import os
import sys
import tomllib

import numpy as np
import pytest

import kd_jax
from experiments import __main__ as command
from experiments.command_line import asking, console, naming, options
from experiments.domains.study import argument_docs
from experiments.pipeline import forecast
from kd_jax.models import ModelSpec, build_model
from kd_jax.recipes import methods_for, options_of
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


# Packaging.


def test_every_package_is_installed_and_none_is_called_experiments():
  found = {
    ".".join(path.parent.relative_to(ROOT).parts)
    for folder in ("kd_jax", "experiments")
    for path in (ROOT / folder).rglob("__init__.py")
  }
  installed = set(PROJECT["tool"]["setuptools"]["packages"])
  assert installed == {name.replace("experiments", "kd_jax_experiments") for name in found}
  assert PROJECT["tool"]["setuptools"]["package-dir"] == {"kd_jax_experiments": "experiments"}


def test_experiments_import_each_other_by_relative_names():
  for path in (ROOT / "experiments").rglob("*.py"):
    for line in path.read_text().splitlines():
      assert not line.lstrip().startswith(("from experiments", "import experiments")), path


def test_the_requirements_are_those_of_the_library_and_its_extras():
  project = PROJECT["project"]
  lines = [*project["dependencies"], *project["optional-dependencies"]["data"]]
  lines += project["optional-dependencies"]["studies"]
  required = {
    line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"
  }
  of_tests_alone = {line for line in required if line.startswith(("pytest", "chex"))}
  assert required - of_tests_alone == set(lines) - {"kd_jax[data]"}


def test_the_entry_point_is_the_dispatcher():
  module, _, function = PROJECT["project"]["scripts"]["kd-jax"].partition(":")
  module = importlib.import_module(module.replace("kd_jax_experiments", "experiments"))
  assert getattr(module, function) is command.main


# Commands.


def test_every_command_is_listed_with_what_it_does(capsys):
  assert command.main(["--help"]) == 0
  shown = capsys.readouterr().out.splitlines()
  for name in command.COMMANDS:
    (line,) = (line for line in shown if line.split()[:1] == [name])
    assert len(line.split()) > 3
  modules = {path.stem for path in (ROOT / "experiments").glob("*.py")}
  assert {*command.COMMANDS} == modules - {"__init__", "__main__"}


def test_the_version(capsys):
  assert command.main(["--version"]) == 0
  assert capsys.readouterr().out == f"kd_jax {kd_jax.__version__}\n"


def test_an_unknown_command_is_told_the_one_that_was_meant(capsys):
  assert command.main(["studdy", "digits"]) == 2
  assert "unknown command 'studdy': did you mean study? commands are" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_line_that_installs_it(capsys, monkeypatch):
  found = importlib.util.find_spec
  monkeypatch.setattr(
    "importlib.util.find_spec", lambda name: None if name in ("tyro", "rich") else found(name)
  )
  assert command.main(["study", "digits"]) == 1
  assert capsys.readouterr().err == (
    "error: `study` needs tyro, rich: pip install 'kd_jax[studies]'\n"
  )


def test_a_command_is_called_with_its_own_arguments(capsys, monkeypatch, tmp_path):
  monkeypatch.setattr(sys, "argv", ["kd-jax", "report", str(tmp_path)])
  assert command.main() == 1
  assert "results.json does not exist" in capsys.readouterr().err
  assert sys.argv == ["kd-jax", str(tmp_path)]


def test_texts_name_commands_as_they_are_called(monkeypatch):
  text = "python -m experiments.study digits"
  assert naming.as_called(text) == text
  monkeypatch.setattr(naming, "_INSTALLED", True)
  assert naming.as_called(text) == "kd-jax study digits"
  assert naming.call_of("report") == ("kd-jax", "report")


# Options.


@pytest.mark.parametrize(
  ("written", "meant"),
  [
    ("--tau-max 5", "--annealing-kd.max-temperature or --continuation-kd.max-temperature"),
    ("--annealing-kd.tau-max 5", "--annealing-kd.max-temperature"),
    ("--annealing_kd.tau_max=5", "--annealing-kd.max-temperature"),
    ("--anealing-kd.max-temperature 5", "--annealing-kd.max-temperature"),
    ("--lr 0.1", "--optimizer.learning-rate or --teacher-optimizer.learning-rate"),
    ("--optimizer.lr 0.1", "--optimizer.learning-rate"),
    ("--seed 3", "--seeds"),
    ("--output-dir somewhere", "--workdir"),
    ("--method kd", "--methods"),
  ],
)
def test_a_near_miss_is_told_the_option_that_was_meant(written, meant):
  option = written.split()[0].partition("=")[0]
  # Underscores are as good as hyphens.
  expected = f"unknown option {option.replace('_', '-')}: did you mean {meant}?"
  with pytest.raises(ValueError, match="unknown option") as raised:
    options.parse("study", ["digits", *written.split()])
  assert str(raised.value).replace("_", "-") == expected


def test_an_option_like_no_other_is_told_where_all_are():
  with pytest.raises(ValueError, match=r"^unknown option --qqq: `python -m .*study --help` lists"):
    options.parse("study", ["digits", "--qqq", "1"])


def test_a_value_too_many_is_not_dropped():
  with pytest.raises(ValueError, match="unexpected argument '1': the option before it takes fewer"):
    options.parse("study", ["digits", "--first-seed", "0", "1"])


def test_option_names_are_those_that_are_read():
  study, _, _ = options.parse("study", ["digits", "--kd.temperature", "3"])
  names = list(asking.option_names(type(study)))
  assert len(names) == len(set(names))
  assert {"--epochs", "--optimizer.warmup", "--annealing-kd.max-temperature"} <= set(names)
  assert not {"--name", "--paper", "--settings"} & set(names)


@pytest.mark.parametrize("kind", ["images", "texts", "sentences"])
def test_every_option_of_a_method_is_described(kind):
  for method, make in methods_for(kind).items():
    said = argument_docs(importlib.import_module("inspect").getdoc(make))
    for parameter in options_of(method):
      assert said.get(parameter.name), f"{method} does not describe {parameter.name}"


# Seeds.


@pytest.mark.parametrize(
  ("written", "seeds"),
  [
    ("--seeds 3", [0, 1, 2]),
    ("--seeds 2 --first-seed 7", [7, 8]),
    ("--seeds 3 7 11", [3, 7, 11]),
    ("--seeds 11 3", [11, 3]),
  ],
)
def test_seeds_are_a_number_or_the_seeds_themselves(written, seeds):
  study, _, _ = options.parse("study", ["digits", *written.split()])
  assert [*study.seed_values] == seeds


@pytest.mark.parametrize(
  ("written", "message"),
  [
    ("--seeds 3 3", r"seeds must be distinct and from 0 to 2\^32 - 1, got \[3, 3\]"),
    ("--seeds 1 4294967296", "got .*4294967296"),
    ("--seeds 1 2 --first-seed 5", "first_seed goes with a number of seeds, got first_seed 5"),
    ("--seeds 0", "seeds must be at least 1, got 0"),
  ],
)
def test_seeds_that_would_not_count_are_refused(written, message):
  with pytest.raises(ValueError, match=message):
    options.parse("study", ["digits", *written.split()])


# Terminals.


def test_a_closed_pipe_ends_a_command_quietly(monkeypatch, capfd):
  reading, writing = os.pipe()
  os.close(reading)
  with open(writing, "w") as pipe:
    monkeypatch.setattr(sys, "stdout", pipe)
    status = console.run(lambda argv: print("more than was asked for") or 0)
    monkeypatch.undo()
  assert status == 141
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_characters_that_a_terminal_does_not_know_are_replaced(monkeypatch, encoding):
  kept = io.BytesIO()
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding=encoding))
  assert console.run(lambda argv: print("└─ 8×8 τ") or 0) == 0
  assert b"?" in kept.getvalue()


# A first look.


def test_quick_changes_defaults_and_nothing_that_is_named():
  study, _, _ = options.parse("study", ["digits", "--quick"])
  assert (study.methods, [*study.seed_values], study.quick) == (("kd",), [0], True)
  study, _, _ = options.parse(
    "study", ["digits", "--seeds", "2", "--quick", "--methods", "scratch"]
  )
  assert (study.methods, [*study.seed_values]) == (("scratch",), [0, 1])
  study, _, _ = options.parse("study", ["conll_ner", "--quick"])
  assert study.methods == ("structural_kd",)


def test_few_methods_are_the_default_for_own_files():
  study, _, _ = options.parse("study", ["texts", "--files", "train.csv", "test.csv"])
  assert study.methods == ("scratch", "kd", "annealing_kd")
  study, _, _ = options.parse("study", ["conll_ner", "--files", "a", "b", "c"])
  assert study.methods == ("scratch", "token_kd", "structural_kd")
  chosen = ["texts", "--files", "train.csv", "test.csv", "--methods", "universal_kd"]
  assert options.parse("study", chosen)[0].methods == ("universal_kd",)
  assert len(options.parse("study", ["texts"])[0].methods) == 7


def test_the_time_of_students_follows_from_the_teachers():
  small, large = (build_model(ModelSpec(hidden=(width,)), 10) for width in (8, 80))
  images = np.zeros((2, 8, 8, 1), np.uint8)
  share = forecast.operations(large, images) / forecast.operations(small, images)
  assert 8 < share < 12
