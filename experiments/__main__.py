"""Runs a command by name: `kd-jax COMMAND` if kd_jax is installed, else `python -m experiments COMMAND`.

Nothing is imported before it is known which command is wanted, so that a missing package is named with the line
that installs it.
"""

import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = (
  "study",
  "teacher",
  "precompute",
  "student",
  "evaluate",
  "report",
  "compare",
  "lineage",
  "predict",
  "export",
  "prepare",
)
"""In the order in which a study goes through them; each is a module beside this one."""
EXTRA = "studies"
NEEDED = (
  "tyro",
  "rich",
  "matplotlib",
  "scipy",
  "tensorboardX",
  "tensorflow_datasets",
  "tokenizers",
)
"""What commands import and the library alone does not."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs `COMMAND [options]`.

  Returns:
    The exit status: 0, 1 for an error that is told in one line, 2 for an unknown command, 130 if interrupted.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  if not arguments or arguments[0] in ("-h", "--help", "help"):
    print(_help())
    return 0
  if arguments[0] in ("-V", "--version"):
    import kd_jax

    print(f"kd_jax {kd_jax.__version__}")
    return 0
  name, *rest = arguments
  if name not in COMMANDS:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    advice = f"did you mean {close[0]}? " if close else ""
    print(
      f"error: unknown command {name!r}: {advice}commands are {', '.join(COMMANDS)}",
      file=sys.stderr,
    )
    return 2
  missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
  if missing:
    print(
      f"error: `{name}` needs {', '.join(missing)}: pip install 'kd_jax[{EXTRA}]'", file=sys.stderr
    )
    return 1
  from .command_line import console

  sys.argv[1:] = rest  # as if the command had been started by itself
  return console.run(importlib.import_module(f".{name}", __package__).main, rest)


def _help() -> str:
  lines = [
    "usage: kd-jax COMMAND [options]",
    "",
    "Knowledge distillation studies. `kd-jax COMMAND --help` lists a command's options.",
    "",
    *(f"  {name:<11} {_summary(name)}" for name in COMMANDS),
  ]
  return "\n".join(lines)


def _summary(name: str) -> str:
  """The first line of a command's docstring, without importing what the command needs."""
  text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
  return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


if __name__ == "__main__":
  sys.exit(main())
