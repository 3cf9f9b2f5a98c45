"""Every kind of data: which studies are of it, and how its examples are found again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kd_jax.models.spec import ModelSpec

from . import images, sequences, text_sources, texts
from .domain import Domain
from .image_study import ImageStudy
from .sequence_study import SequenceStudy
from .sequences import SequenceNetworkSpec
from .study import Study
from .text_study import TextStudy
from .texts import TextNetworkSpec

NetworkSpec = ModelSpec | SequenceNetworkSpec | TextNetworkSpec
"""A network of any kind of data."""


class Kind(NamedTuple):
  """A kind of data.

  Attributes:
    study: what its studies are.
    open: (study, data directory) -> its data and networks.
    fingerprint: (source, data directory) -> of the training examples as they are on disk, or None.
  """

  study: type[Study]
  open: Callable[[Any, Path | None], Domain]
  fingerprint: Callable[[dict[str, Any], Path | None], str | None]


KINDS = {
  "images": Kind(ImageStudy, images.open_images, images.fingerprint),
  "sequences": Kind(SequenceStudy, sequences.open_sequences, sequences.fingerprint),
  "texts": Kind(TextStudy, texts.open_texts, text_sources.fingerprint),
}
"""By the "kind" of a source; `deployment.interfaces` has them too."""


def domain_of(study: Study, data_dir: Path | None) -> Domain[NetworkSpec]:
  """A study's data and networks; what is wrong with them is raised as their ValueErrors."""
  (kind,) = (kind for kind in KINDS.values() if isinstance(study, kind.study))
  return kind.open(study, data_dir)


def fingerprint(source: dict[str, Any], data_dir: Path | None) -> str | None:
  """Of the training examples as they are on disk now; None where they are not."""
  return KINDS[source["kind"]].fingerprint(source, data_dir)
