"""Packages that only some functions need: a missing one is named with the line that installs it."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
  """Around imports of the packages of an extra, such as `pip install 'kd_jax[data]'`.

  Raises:
    ModuleNotFoundError: naming the package that is missing and the command.

  >>> with extra("data"):
  ...   import no_such_package
  Traceback (most recent call last):
  ModuleNotFoundError: no_such_package is not installed: pip install 'kd_jax[data]'
  """
  try:
    yield
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"{error.name} is not installed: pip install 'kd_jax[{name}]'", name=error.name
    ) from None
