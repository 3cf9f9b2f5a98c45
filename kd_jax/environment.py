"""What a result was made with: versions of the libraries, the commit of the code, and the devices."""

import functools
import importlib.metadata
import pathlib
import subprocess
import sys

import jax

Environment = dict[str, str]
"""Version by library; "commit" of the code, if it lies in a checkout; "devices"."""

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> Environment:
  """What this process computes with."""
  found = {"kd_jax": sys.modules["kd_jax"].__version__}
  found |= {name: _version(name) for name in _LIBRARIES}
  commit = _commit()
  if commit:
    found["commit"] = commit
  return found | {"devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}"}


def changes(before: Environment, now: Environment) -> str:
  """What differs, in words: "jax 0.10.1, now 0.10.2; devices 1 × cpu, now 2 × cpu"."""
  names = [*now, *(name for name in before if name not in now)]
  return "; ".join(
    f"{name} {before.get(name, 'unknown')}, now {now.get(name, 'unknown')}"
    for name in names
    if before.get(name) != now.get(name)
  )


def distinct(environments: list[Environment]) -> list[Environment]:
  """Each once, in the order of their first appearance."""
  return [found for i, found in enumerate(environments) if found not in environments[:i]]


@functools.cache
def _version(library: str) -> str:
  try:
    return importlib.metadata.version(library)
  except importlib.metadata.PackageNotFoundError:
    return "unknown"


@functools.cache
def _commit() -> str | None:
  """The commit that the code was checked out at; None of an installed package."""
  folder = pathlib.Path(__file__).resolve().parents[1]
  if not (folder / ".git").exists():
    return None
  commit = _git(folder, "rev-parse", "HEAD")
  changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
  return f"{commit[:12]}{' with changes' if changed else ''}" if commit else None


def _git(folder: pathlib.Path, *arguments: str) -> str:
  try:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.check_output(
      command, stderr=subprocess.DEVNULL, text=True, timeout=10
    ).strip()
  except (OSError, subprocess.SubprocessError):
    return ""
