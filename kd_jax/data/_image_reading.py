"""Reads images from class folders and .npz files, and brings them to one form."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_jax._extras import extra
from kd_jax.data.dataset import refuse_channels_first
from kd_jax.data.splits import check_one_label_each

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
PARTS = {
  "train": ("train", "training"),
  "validation": ("validation", "val", "valid", "dev"),
  "test": ("test", "testing"),
}
"""What the folders of splits are called."""
MIXED_SIZE = 32
"""To which images of several sizes are brought, if no size is asked for."""
_MOST_BYTES = 8 * 2**30
_MOST_PIXELS = 100_000_000
_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
_NAMED = 3


class Read(NamedTuple):
  """One source: images [N, H, W, D] uint8, the class of each by name, the source, and notes."""

  images: np.ndarray
  names: np.ndarray
  path: Path
  notes: list[str]


class Form(NamedTuple):
  """What all images are brought to: (H, W), and whether they are grey."""

  size: tuple[int, int]
  grey: bool


def sources(files: Sequence[str | Path]) -> dict[str, Path]:
  """The source of each split."""
  given = [files] if isinstance(files, str | Path) else list(files)
  paths = [Path(file).expanduser() for file in given]
  if not 1 <= len(paths) <= 3:
    raise ValueError(
      f"image files must be one, two (training, test) or three (training, validation, test); got {len(paths)}"
    )
  for path in paths:
    if not path.exists():
      raise ValueError(f"there is no file or folder {path}")
    if path.is_file() and path.suffix.lower() != ".npz":
      raise ValueError(
        f"{path.name} is neither a folder nor an .npz file: give folders of class folders, or .npz files with "
        "images and labels"
      )
  if len(set(paths)) < len(paths):
    raise ValueError("image files must be different: one of them is given twice")
  if len(paths) == 1 and paths[0].is_dir():
    parts = _parts_of(paths[0])
    if {"train", "test"} <= set(parts):
      return parts
    if "train" in parts:
      if "validation" not in parts:
        return {"train": parts["train"]}
      raise ValueError(
        f"{paths[0]} has training and validation images and no folder `test`: name the folders in the order "
        "training, validation, test"
      )
  splits = {1: ("train",), 2: ("train", "test"), 3: ("train", "validation", "test")}[len(paths)]
  return dict(zip(splits, paths, strict=True))


def _parts_of(folder: Path) -> dict[str, Path]:
  inside = {path.name.lower(): path for path in _folders(folder)}
  return {split: inside[name] for split, names in PARTS.items() for name in names if name in inside}


def _hidden(path: Path) -> bool:
  return path.name.startswith((".", "__MACOSX"))


def _folders(folder: Path) -> list[Path]:
  return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path))


def _images_in(folder: Path) -> list[tuple[Path, str]]:
  """Every image below the class folders of a folder, with its class."""
  found = []
  for inside in _folders(folder):
    files = sorted(path for path in inside.rglob("*") if _is_image(path))
    found += [(path, inside.name) for path in files]
  if not found:
    loose = sum(map(_is_image, folder.iterdir()))
    reason = f"holds {loose} images and no class folders" if loose else "holds no images"
    raise ValueError(
      f"{folder} {reason}: images must lie in one folder for each class, as {', '.join(SUFFIXES)}"
    )
  return found


def _is_image(path: Path) -> bool:
  return path.is_file() and path.suffix.lower() in SUFFIXES and not _hidden(path)


# Reading.


def common_form(train: Path, image_size: int | None, colour: bool | None) -> Form:
  """What the training images ask for; only the headers of image files are read."""
  if train.is_file():
    images = _arrays(train)["images"]
    sizes = Counter([tuple(images.shape[1:3])])
    grey = images.ndim == 3 or images.shape[3] == 1
  else:
    headers = [header for path, _ in _images_in(train) if (header := _header(path)) is not None]
    sizes = Counter(size for size, _ in headers)
    grey = all(mode in _GREY for _, mode in headers)
  if not sizes:
    raise ValueError(f"no image in {train} can be read")
  size = next(iter(sizes)) if len(sizes) == 1 else (MIXED_SIZE, MIXED_SIZE)
  chosen = size if image_size is None else (image_size, image_size)
  return Form(chosen, grey if colour is None else not colour)


def _header(path: Path) -> tuple[tuple[int, int], str] | None:
  """(H, W) as it will be seen, and the mode, of an image file; None if it is none."""
  with extra("data"):
    from PIL import Image
  try:
    with Image.open(path) as image:
      # Values above 4 of EXIF's orientation lie on their side.
      turned = image.getexif().get(0x0112, 1) > 4
      return (image.size if turned else image.size[::-1]), image.mode
  except Exception:  # Pillow raises many kinds; reading says more
    return None


def read(path: Path, form: Form, skip_malformed: bool) -> Read:
  return _read_arrays(path, form) if path.is_file() else _read_folder(path, form, skip_malformed)


def _read_folder(folder: Path, form: Form, skip_malformed: bool) -> Read:
  files, notes = _images_in(folder), []
  count = len(files) * form.size[0] * form.size[1] * (1 if form.grey else 3)
  if count > _MOST_BYTES:
    raise ValueError(
      f"{folder} has {len(files):,} images of {form.size[0]} × {form.size[1]}, {count / 2**30:.0f} GiB in "
      "memory: choose a smaller image_size"
    )
  with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
    decoded = list(pool.map(lambda file: _decoded(file[0], form), files))
  problems = [
    (file[0], found) for file, found in zip(files, decoded, strict=True) if isinstance(found, str)
  ]
  if problems:
    first = "; ".join(f"{path.relative_to(folder)}: {why}" for path, why in problems[:_NAMED])
    more = f" and {len(problems) - _NAMED:,} more" if len(problems) > _NAMED else ""
    many = f"{len(problems):,} image{'s'[: len(problems) > 1]} of {folder.name} cannot be read"
    if not skip_malformed or len(problems) == len(files):
      raise ValueError(f"{many}: {first}{more}; remove them, or leave them out (skip_malformed)")
    notes.append(f"left out: {many}: {first}{more}")
  kept = [
    (found, file[1])
    for file, found in zip(files, decoded, strict=True)
    if not isinstance(found, str)
  ]
  changed = Counter(change for (_, changes), _ in kept for change in changes)
  notes += [
    f"{count:,} of {len(kept):,} images of {folder.name} {what}" for what, count in changed.items()
  ]
  classes = {name for _, name in kept}
  if empty := [inside.name for inside in _folders(folder) if inside.name not in classes]:
    notes.append(f"{folder.name} has folders without images: {', '.join(empty[:_NAMED])}")
  others = sum(
    path.is_file() and not _hidden(path) and path.suffix.lower() not in SUFFIXES
    for path in folder.rglob("*")
  )
  if others:
    many = (
      f"{others:,} file{'s'[: others > 1]} of {folder.name} that {'are' if others > 1 else 'is'}"
    )
    notes.append(f"left out: {many} no {', '.join(SUFFIXES)}")
  images = np.stack([image for (image, _), _ in kept])
  return Read(images, np.array([name for _, name in kept]), folder, notes)


def _decoded(path: Path, form: Form) -> tuple[np.ndarray, tuple[str, ...]] | str:
  """[H, W, D] uint8 of an image file and what was changed, or why it cannot be read."""
  with extra("data"):
    from PIL import Image, ImageOps
  try:
    with Image.open(path) as image:
      if image.width * image.height > _MOST_PIXELS:
        return f"has {image.width} × {image.height} pixels"
      image.load()
      return _formed(ImageOps.exif_transpose(image), form)
  except Exception as error:  # Pillow raises many kinds; all mean the same to the user
    return " ".join(str(error).split()).replace(str(path), path.name) or type(error).__name__


def _formed(image: Any, form: Form) -> tuple[np.ndarray, tuple[str, ...]]:
  """An image of Pillow's in the form that all have."""
  from PIL import Image, ImageOps

  changes = []
  if image.mode.startswith("I;16"):
    image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    changes.append("have 16 bits, of which the upper 8 are read")
  elif image.mode in ("I", "F"):
    raise ValueError(f"has pixels of 32 bits (mode {image.mode}): save it with 8")
  if image.has_transparency_data:
    image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    changes.append("are transparent, and were put on black")
  if form.grey and image.mode not in ("1", "L"):
    grey = np.asarray(image.convert("RGB"))
    if (grey != grey[..., :1]).any():
      changes.append("are coloured, and were made grey")
  image = image.convert("L" if form.grey else "RGB")
  height, width = form.size
  if image.size != (width, height):
    changes.append(f"were resized to {height} × {width}")
    image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
  array = np.asarray(image, np.uint8)
  return (array[..., None] if form.grey else array), tuple(changes)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
  """An .npz file; whatever goes wrong with it is a ValueError that names it."""
  try:
    with np.load(path, allow_pickle=False) as file:
      yield file
  except Exception as error:  # a damaged zip archive has errors of its own
    raise ValueError(f"{path.name} cannot be read as an .npz file: {error}") from None


def _arrays(path: Path) -> dict[str, np.ndarray]:
  """`images` and `labels` of an .npz file, checked for their form."""
  with _opened(path) as file:
    held = {name: file[name] for name in file.files if name in ("images", "labels", "class_names")}
    names = list(file.files)
  if missing := [name for name in ("images", "labels") if name not in held]:
    raise ValueError(f"{path.name} lacks {' and '.join(missing)}: it holds {', '.join(names)}")
  check_images(path.name, held["images"])
  images, labels = held["images"], held["labels"]
  check_one_label_each(path.name, labels, len(images), "image")
  if not len(images):
    raise ValueError(f"{path.name} holds no images")
  if labels.dtype.kind not in "iuUSb":
    raise ValueError(f"labels of {path.name} must be integers or texts, got {labels.dtype}")
  return held


def plain_images(path: Path, form: Form) -> tuple[list[str], np.ndarray]:
  """Names and images [N, H, W, D] of an image file, of a folder at any depth, or of an .npz file."""
  if not path.exists():
    raise ValueError(f"there is no file or folder {path}")
  if path.suffix.lower() == ".npz":
    with _opened(path) as file:
      if "images" not in file.files:
        raise ValueError(f"{path.name} lacks images: it holds {', '.join(file.files)}")
      images = file["images"]
    check_images(path.name, images)
    formed, _ = _brought_to(images, form)
    return [f"{path}:{number}" for number in range(len(formed))], formed
  files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if _is_image(p))
  if not files:
    raise ValueError(f"{path} holds no images: they must be {', '.join(SUFFIXES)}")
  with ThreadPoolExecutor() as pool:
    decoded = list(pool.map(lambda file: _decoded(file, form), files))
  images = []
  for file, found in zip(files, decoded, strict=True):
    if isinstance(found, str):
      raise ValueError(f"{file} cannot be read: {found}")
    images.append(found[0])
  return [str(file) for file in files], np.stack(images)


def _brought_to(images: np.ndarray, form: Form) -> tuple[np.ndarray, Counter]:
  """Arrays of images [N, H, W] or [N, H, W, D] in one form, and what was changed."""
  images = images if images.ndim == 4 else images[..., None]
  if images.shape[1:] == (*form.size, 1 if form.grey else 3):
    return np.ascontiguousarray(images), Counter()
  with extra("data"):
    from PIL import Image
  flat = images[..., 0] if images.shape[-1] == 1 else images
  formed = [_formed(Image.fromarray(image), form) for image in flat]
  return np.stack([image for image, _ in formed]), Counter(
    change for _, changes in formed for change in changes
  )


def check_images(where: str, images: np.ndarray) -> None:
  """Refuses arrays that are not images [N, H, W] or [N, H, W, D], channels last, of bytes.

  Raises:
    ValueError: naming the remedy.

  >>> check_images("a.npz", np.zeros((8, 3, 32, 32), np.uint8))
  Traceback (most recent call last):
  ValueError: images of a.npz are channels first, (8, 3, 32, 32): pass images.transpose(0, 2, 3, 1)
  """
  shape = images.shape
  channels = (1, 3, 4)
  refuse_channels_first(where, images)
  if images.ndim not in (3, 4) or (images.ndim == 4 and shape[3] not in channels):
    raise ValueError(f"images of {where} must be [N, H, W] or [N, H, W, 1, 3 or 4], got {shape}")
  if images.dtype != np.uint8:
    remedy = ": pass (255 * images).round().astype(np.uint8) if they are in [0, 1]"
    raise ValueError(
      f"images of {where} must be uint8, got {images.dtype}{remedy * (images.dtype.kind == 'f')}"
    )


def _read_arrays(path: Path, form: Form) -> Read:
  held = _arrays(path)
  images, changed = _brought_to(held["images"], form)
  notes = [
    f"{count:,} of {len(images):,} images of {path.name} {what}" for what, count in changed.items()
  ]
  labels = held["labels"]
  if labels.dtype.kind == "b":
    labels = labels.astype(np.int64)
  names = labels.astype(str)
  if "class_names" in held:
    given = held["class_names"].astype(str)
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(given):
      raise ValueError(
        f"{path.name} has {len(given)} class_names, and labels that are no numbers below it: "
        f"{', '.join(np.unique(names)[:_NAMED])}"
      )
    names = given[labels]
  return Read(images, names, path, notes)
