"""Links of the lineage: what a checkpoint or a cache came from."""

import dataclasses
import enum
from typing import Any, Literal


class LinkKind(enum.Enum):
  """What a link leads to; the values are the words on disk."""

  DATA = "data"
  WEIGHTS_FILE = "weights file"
  WEIGHTS_FOLDER = "weights folder"
  CACHE = "cache"
  TEACHER = "teacher"
  ASSISTANT = "assistant"
  STARTING_WEIGHTS = "starting weights"
  LAYER_CLASSIFIERS = "layer classifiers"
  PHASE = "phase"
  """The phase before, of the same run: "phase NAME" on disk."""
  TRAINING = "training"
  """The last phase of the run that a finished network is taken from: the phase's name alone on disk."""


IMPORTED = (LinkKind.WEIGHTS_FILE, LinkKind.WEIGHTS_FOLDER)
"""Networks that were trained elsewhere."""


@dataclasses.dataclass(frozen=True)
class Link:
  """A parent in the lineage.

  Attributes:
    kind: of the parent.
    digest: of its content.
    path: in the study's folder; None if it lies outside.
    name: of what lies outside.
    phase: its name, if the parent is one.
    start: which weights of the phase before were taken: "best" or "last".
    of: "teacher" for training data that students do not see as a whole.
  """

  kind: LinkKind
  digest: str
  path: str | None = None
  name: str | None = None
  phase: str | None = None
  start: str | None = None
  of: Literal["teacher"] | None = None

  @property
  def title(self) -> str:
    """The kind, as it is written.

    >>> Link(LinkKind.PHASE, "1f", phase="anneal").title, Link(LinkKind.DATA, "1f").title
    ('phase anneal', 'data')
    """
    if self.kind is LinkKind.TRAINING:
      return str(self.phase)
    return f"phase {self.phase}" if self.kind is LinkKind.PHASE else self.kind.value

  def to_json(self) -> dict[str, str]:
    """The form on disk.

    >>> Link(LinkKind.PHASE, "1f", path="a/b", phase="anneal", start="best").to_json()
    {'kind': 'phase anneal', 'digest': '1f', 'path': 'a/b', 'start': 'best'}
    """
    said = {"kind": self.title, "digest": self.digest}
    rest = {"path": self.path, "name": self.name, "start": self.start, "of": self.of}
    return said | {key: value for key, value in rest.items() if value is not None}

  @classmethod
  def from_json(cls, said: Any) -> "Link":
    """Reads the form on disk.

    Raises:
      ValueError: it is not a link.

    >>> Link.from_json({"kind": "distil", "digest": "1f", "path": "a/b"}).kind
    <LinkKind.TRAINING: 'training'>
    """
    try:
      title, digest = said["kind"], said["digest"]
      rest = {key: said.get(key) for key in ("path", "name", "start", "of")}
    except (TypeError, KeyError, AttributeError):
      raise ValueError(f"a link of the lineage must have a kind and a digest, got {said}") from None
    kinds = {kind.value: kind for kind in LinkKind}
    if title.startswith("phase "):
      return cls(LinkKind.PHASE, digest, phase=title.removeprefix("phase "), **rest)
    if title in kinds:
      return cls(kinds[title], digest, **rest)
    return cls(LinkKind.TRAINING, digest, phase=title, **rest)
