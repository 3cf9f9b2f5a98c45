"""Keeping TFDS from talking while it reads or writes small files."""

import contextlib
import io
import warnings
from collections.abc import Iterator

from kd_jax._extras import extra


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
  """Drops TFDS's advice, announcements and progress bars inside the block; errors still show."""
  with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    with extra("data"):
      import tensorflow_datasets as tfds
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
      yield
    finally:
      tfds.enable_progress_bar()
      logging.set_verbosity(verbosity)
