"""Methods of one's own: a Python file outside this project, whose import registers them."""

import importlib.util
import sys
from pathlib import Path


def load_recipes(path: Path) -> None:
  """Imports a file, once; its module is named as the file is.

  Raises:
    ValueError: no such file, a name that another module has, or an error within.
  """
  path = path.expanduser().resolve()
  if not path.is_file() or path.suffix != ".py":
    raise ValueError(f"`recipes` must be a Python file that registers methods, got {path}")
  name = path.stem
  held = sys.modules.get(name)
  if held is not None and getattr(held, "__file__", None) == str(path):
    return
  if held is not None or importlib.util.find_spec(name) is not None:
    raise ValueError(f"there is a module {name!r} already: rename {path}")
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  # Found by name, so that the losses in it can be described and pickled.
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    del sys.modules[name]
    raise ValueError(f"{path} could not be imported: {type(error).__name__}: {error}") from error
