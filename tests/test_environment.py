"""What a result was made with."""

import shutil
import subprocess

import jax
import numpy as np

import kd_jax
from kd_jax import environment
from kd_jax.environment import changes, distinct


def test_versions_and_devices():
  found = environment.environment()
  assert found["kd_jax"] == kd_jax.__version__
  assert (found["jax"], found["numpy"]) == (jax.__version__, np.__version__)
  assert found["devices"] == f"{jax.device_count()} × {jax.devices()[0].device_kind}"
  assert all(type(value) is str for value in found.values())


def test_the_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
  folder = tmp_path / "kd_jax"
  folder.mkdir()
  file = shutil.copy(environment.__file__, folder)
  monkeypatch.setattr(environment, "__file__", str(file))

  def commit():
    environment._commit.cache_clear()
    return environment._commit()

  def git(*arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.check_output(["git", "-C", tmp_path, *identity, *arguments], text=True)

  assert commit() is None  # an installed package
  git("init", "-q")
  git("add", ".")
  git("commit", "-q", "-m", "first")
  assert commit() == git("rev-parse", "HEAD")[:12]
  (folder / "environment.py").write_text("changed")
  assert commit() == git("rev-parse", "HEAD")[:12] + " with changes"
  monkeypatch.setenv("PATH", "")
  assert commit() is None  # no git here
  monkeypatch.undo()
  commit()


def test_changes_are_named_with_both_values():
  before = {"jax": "0.10.1", "numpy": "2", "commit": "abc"}
  now = {"jax": "0.10.2", "numpy": "2", "devices": "2 × cpu"}
  assert changes(before, now) == (
    "jax 0.10.1, now 0.10.2; devices unknown, now 2 × cpu; commit abc, now unknown"
  )
  assert changes(now, now) == ""
  assert distinct([before, now, before]) == [before, now]
