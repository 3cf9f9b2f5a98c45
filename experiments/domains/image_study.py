"""What a study of classified images is."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from kd_jax.data.augmentation import Augmentation
from kd_jax.models.spec import ModelSpec

from .study import Study, method_settings

MethodSettings = method_settings("MethodSettings", "images")


@dataclasses.dataclass(frozen=True)
class ImageStudy(Study):
  """A comparison of methods on images."""

  kind: ClassVar = "images"

  dataset: str = "digits"
  """TFDS data set: digits, mnist, fashion_mnist, cifar10, cifar100."""
  files: tuple[Path, ...] = ()
  """Your own images instead: folders of class folders (PNG, JPEG), or .npz files with images and labels.
  Training and test; or training, validation and test; or one, of which a part is held out."""
  image_size: int | None = None
  """Of your own images: height and width to bring them to. None keeps images that are all of one size."""
  colour: bool | None = None
  """Of your own images: three channels, or one; None: one if all training images are grey."""
  skip_malformed: bool = False
  """Leave image files out that cannot be read, and say how many, instead of refusing them."""
  label_smoothing: float = 0.0
  """Of the labels, for teacher and students, in [0, 1)."""
  class_weights: tuple[str, ...] = ()
  """Of the loss on labels: a number for each class in their order, or `balanced`: inversely to the classes'
  shares of the training labels."""
  validation_examples: int | None = 200
  """Held out of the training split, to choose the best epoch; None: of your own images a tenth, at most
  1,000."""
  student_limit: int | None = None
  """Students and assistants see at most so many of the training images, balanced over the classes; the teacher
  sees all."""
  augmentation: Augmentation = Augmentation(name="none")
  """Of the training images."""
  views: int = 1
  """Views of each training image, one an epoch in turn; the cache holds a row for each."""
  teacher: ModelSpec = ModelSpec()
  """The teacher's network."""
  teacher_weights: Path | None = None
  """Import a PyTorch CIFAR ResNet from this safetensors file instead of training a teacher."""
  assistant: ModelSpec = ModelSpec()
  """The assistant's network, for methods that have one."""
  student: ModelSpec = ModelSpec()
  """The student's network."""
  methods: tuple[str, ...] = ("scratch", "kd", "annealing_kd")
  """Methods to compare, in the order of the tables."""
  cache_top_k: int | None = None
  """Keep only the K likeliest classes and the tail; for soft targets at the temperature of `kd`."""
  cache_outputs: tuple[str, ...] = ("logits",)
  """What the teacher's cache keeps: logits, and layers for methods that read feature maps. Maps are large: with
  many images or views, use live_teacher instead."""
  settings: Annotated[MethodSettings, tyro.conf.arg(name="")] = dataclasses.field(
    default_factory=MethodSettings
  )
  """Of each method."""
  official_examples: Annotated[int, tyro.conf.Suppress] = 0
  """How many training examples, held-out ones included, the paper's data set has."""

  def __post_init__(self):
    super().__post_init__()
    if not self.files and (self.image_size, self.colour, self.skip_malformed) != (
      None,
      None,
      False,
    ):
      raise ValueError(
        "image_size, colour and skip_malformed are of your own images: name them with --files"
      )
    known = ("logits", "layers")
    if set(self.cache_outputs) - set(known) or "logits" not in self.cache_outputs:
      raise ValueError(
        f"cache_outputs must be logits, or logits and layers, got {list(self.cache_outputs)}"
      )

  def shrunk(self) -> "ImageStudy":
    def small(spec: ModelSpec) -> ModelSpec:
      smallest = {"resnet": 8, "plain_cnn": 2}.get(spec.family, spec.depth)
      return dataclasses.replace(spec, depth=smallest, hidden=(8,))

    annealing = dataclasses.replace(self.settings.annealing_kd, max_temperature=2)
    return dataclasses.replace(
      self,
      files=(),
      image_size=None,
      colour=None,
      skip_malformed=False,
      validation_examples=16,
      train_limit=48,
      student_limit=None if self.student_limit is None else 32,
      views=min(self.views, 2),
      batch_size=16,
      teacher=small(self.teacher),
      teacher_weights=None,
      teacher_epochs=1,
      assistant=small(self.assistant),
      student=small(self.student),
      epochs=4,
      seeds=1,
      settings=dataclasses.replace(self.settings, annealing_kd=annealing),
    )
