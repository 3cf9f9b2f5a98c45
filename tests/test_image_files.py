"""Images of one's own: folders of class folders and .npz files, as strangers have them."""

import numpy as np
import pytest
from PIL import Image

from experiments.command_line import options
from experiments.domains.registry import domain_of
from kd_jax.data import Augmentation, num_distinct_views, read_image_files, suited


def picture(seed, size=(8, 8), mode="RGB"):
  """An image of random pixels; size is (H, W)."""
  rng = np.random.default_rng(seed)
  shape = size if mode == "L" else (*size, len(mode))
  return Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode)


def write_folder(root, classes=("cat", "dog"), count=10, suffix=".png", seed=0, **form):
  for number, name in enumerate(classes):
    (root / name).mkdir(parents=True)
    for index in range(count):
      picture(seed + 100 * number + index, **form).save(root / name / f"{index}{suffix}")
  return root


def write_npz(path, count=12, seed=0, shape=(8, 8, 3), **more):
  rng = np.random.default_rng(seed)
  arrays = {
    "images": rng.integers(0, 256, (count, *shape), np.uint8),
    "labels": np.arange(count) % 3,
  }
  np.savez(path, **(arrays | more))
  return path


def splits_of(found):
  return found.train, found.validation, found.test


# What is read.


def test_a_folder_of_class_folders_is_split_by_hashes(tmp_path):
  found = read_image_files([write_folder(tmp_path / "photos")])
  assert [len(split) for split in splits_of(found)] == [14, 2, 4]
  assert found.class_names == ("cat", "dog")
  assert [sorted(split.labels.tolist()) for split in splits_of(found)[1:]] == [[0, 1], [0, 0, 1, 1]]
  assert "a fifth of photos, 4 images, is held out as the test" in found.notes
  ids = [one for split in splits_of(found) for one in split.ids]
  assert len(set(ids)) == 20
  again = read_image_files([tmp_path / "photos"])
  assert [s.fingerprint for s in splits_of(again)] == [s.fingerprint for s in splits_of(found)]


def test_pixels_and_classes_are_those_of_the_files(tmp_path):
  folder = write_folder(tmp_path / "photos")
  found = read_image_files([folder])
  for split in splits_of(found):
    for image, label in zip(split.images, split.labels, strict=True):
      files = (folder / found.class_names[label]).iterdir()
      assert any((np.asarray(Image.open(file)) == image).all() for file in files)


def test_names_of_files_and_their_order_do_not_matter(tmp_path):
  first = write_folder(tmp_path / "one" / "photos")
  second = tmp_path / "two" / "photos"
  for file in sorted(first.rglob("*.png")):
    (second / file.parent.name / "deeper").mkdir(parents=True, exist_ok=True)
    (second / file.parent.name / "deeper" / f"{hash(file.name)}.PNG").write_bytes(file.read_bytes())
  found = [read_image_files([folder]) for folder in (first, second)]
  assert found[0].train.fingerprint == found[1].train.fingerprint


@pytest.mark.parametrize("validation", ["val", "Validation", None])
def test_a_folder_of_splits_is_taken_as_such(tmp_path, validation):
  root = tmp_path / "set"
  for number, (name, count) in enumerate({"train": 9, validation: 3, "test": 4}.items()):
    if name is not None:
      write_folder(root / name, count=count, seed=1000 * number)
  found = read_image_files(root)
  held = 2 if validation is None else 0
  assert [len(split) for split in splits_of(found)] == [18 - held, 2 if held else 6, 8]


def test_two_and_three_paths(tmp_path):
  paths = [write_npz(tmp_path / f"{n}.npz", seed=n, count=c) for n, c in enumerate((30, 6, 9))]
  found = read_image_files(paths)
  assert [len(split) for split in splits_of(found)] == [30, 6, 9]
  found = read_image_files([paths[0], paths[2]], validation_examples=6)
  assert [len(split) for split in splits_of(found)] == [24, 6, 9]
  assert np.bincount(found.validation.labels).tolist() == [2, 2, 2]
  limited = read_image_files(paths, limit=6)
  assert np.bincount(limited.train.labels).tolist() == [2, 2, 2]


def test_classes_of_numbers_are_in_their_order(tmp_path):
  names = tuple(str(n) for n in range(11))
  found = read_image_files([write_folder(tmp_path / "digits", names, count=4)])
  assert found.class_names == names
  held = write_npz(tmp_path / "a.npz", labels=np.arange(12) % 3 * 5)
  assert read_image_files(held).class_names == ("0", "5", "10")


def test_arrays_may_name_their_classes(tmp_path):
  names = np.array(["ant", "bee", "cow"])
  labels = np.arange(12) % 3
  by_number = write_npz(tmp_path / "number.npz", class_names=names)
  by_name = write_npz(tmp_path / "name.npz", labels=names[labels])
  found = [read_image_files(path) for path in (by_number, by_name)]
  assert found[0].class_names == found[1].class_names == ("ant", "bee", "cow")
  assert found[0].train.fingerprint == found[1].train.fingerprint


# The form of images.


def test_images_of_several_sizes_are_brought_to_one_and_it_is_said(tmp_path):
  folder = write_folder(tmp_path / "photos", size=(40, 50))
  picture(7, (20, 60)).save(folder / "cat" / "wide.jpg")
  found = read_image_files([folder])
  assert found.train.images.shape[1:] == (32, 32, 3)
  assert "21 of 21 images of photos were resized to 32 × 32" in found.notes
  found = read_image_files([folder], image_size=12)
  assert found.test.images.shape[1:] == (12, 12, 3)


def test_images_of_one_size_stay_as_they_are(tmp_path):
  found = read_image_files([write_folder(tmp_path / "photos", size=(10, 14))])
  assert found.train.images.shape[1:] == (10, 14, 3)
  assert not any("resized" in note for note in found.notes)


def test_the_middle_is_cut_out(tmp_path):
  stripe = np.zeros((8, 24, 3), np.uint8)
  stripe[:, 8:16] = 255
  for name in ("a1", "b1"):
    (tmp_path / "photos" / name).mkdir(parents=True)
    for index in range(5):
      Image.fromarray(stripe).save(tmp_path / "photos" / name / f"{index}.png")
  found = read_image_files([tmp_path / "photos"], image_size=8)
  assert (found.train.images == 255).all()


@pytest.mark.parametrize(
  ("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3)], ids=["grey", "colour", "transparent"]
)
def test_grey_and_coloured_images(tmp_path, mode, channels):
  folder = write_folder(tmp_path / "photos", mode=mode)
  assert read_image_files([folder]).train.images.shape[-1] == channels
  assert read_image_files([folder], colour=True).train.images.shape[-1] == 3
  grey = read_image_files([folder], colour=False)
  assert grey.train.images.shape[-1] == 1
  assert any("were made grey" in note for note in grey.notes) == (mode != "L")
  assert any("transparent" in note for note in grey.notes) == (mode == "RGBA")


def test_a_photograph_on_its_side_is_turned_upright(tmp_path):
  folder = write_folder(tmp_path / "photos", size=(6, 9))
  upright = np.zeros((6, 9, 3), np.uint8)
  upright[:3] = 200
  turned = Image.fromarray(np.rot90(upright, k=1).copy())
  exif = turned.getexif()
  exif[0x0112] = 6  # seen upright after a quarter turn clockwise
  turned.save(folder / "cat" / "turned.png", exif=exif)
  found = read_image_files([folder])
  assert found.train.images.shape[1:] == (6, 9, 3)
  everything = np.concatenate([split.images for split in splits_of(found)])
  assert any((image == upright).all() for image in everything)


def test_sixteen_bits_become_eight(tmp_path):
  for name in ("a1", "b1"):
    (tmp_path / name).mkdir()
    for index in range(5):
      pixels = np.full((4, 4), 256 * (10 + index) + 200, np.uint16)
      Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
  found = read_image_files([tmp_path])
  assert set(np.unique(found.train.images)) <= set(range(10, 15))
  assert any("have 16 bits" in note for note in found.notes)


# What is refused, or noted.


def test_an_image_that_cannot_be_read_is_named_or_left_out(tmp_path):
  folder = write_folder(tmp_path / "photos")
  (folder / "dog" / "broken.jpg").write_bytes(b"no picture")
  whole = (folder / "cat" / "0.png").read_bytes()
  (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(
    ValueError, match=r"^2 images of photos cannot be read: cat.cut\.png: .*dog.broken"
  ):
    read_image_files([folder])
  found = read_image_files([folder], skip_malformed=True)
  assert sum(map(len, splits_of(found))) == 20
  assert any(note.startswith("left out: 2 images") for note in found.notes)


def test_other_files_are_counted_and_hidden_ones_are_not(tmp_path):
  folder = write_folder(tmp_path / "photos")
  (folder / "cat" / "notes.txt").write_text("of cats")
  (folder / ".DS_Store").write_text("")
  (folder / "__MACOSX").mkdir()
  (folder / "empty").mkdir()
  found = read_image_files([folder])
  assert found.class_names == ("cat", "dog")
  assert any(note.startswith("left out: 1 file of photos that is no ") for note in found.notes)
  assert "photos has folders without images: empty" in found.notes


def test_test_images_that_are_training_images_are_counted(tmp_path):
  train = write_folder(tmp_path / "train")
  test = write_folder(tmp_path / "test", count=4)
  found = read_image_files([train, test], validation_examples=4)
  assert any("test images are among the training images" in note for note in found.notes)


def test_classes_that_training_lacks_are_named(tmp_path):
  train = write_folder(tmp_path / "train")
  test = write_folder(tmp_path / "test", ("cat", "emu"))
  with pytest.raises(
    ValueError, match=r"classes that the training images lack: 'emu'; .*'cat', 'dog'"
  ):
    read_image_files([train, test])


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"images": np.zeros((12, 3, 32, 32), np.uint8)}, r"channels first.*transpose\(0, 2, 3, 1\)"),
    ({"images": np.zeros((12, 8, 8, 3), np.float32)}, r"must be uint8, got float32: pass"),
    ({"images": np.zeros((12, 64), np.uint8)}, r"must be \[N, H, W\] .*got \(12, 64\)"),
    ({"labels": np.zeros((12, 1), int)}, r"must be \[N\], got \(12, 1\): take labels\[:, 0\]"),
    ({"labels": np.eye(12)[:, :3]}, r"got \(12, 3\): take labels.argmax\(1\)"),
    ({"labels": np.zeros(11, int)}, "12 images but 11 labels"),
    ({"labels": np.linspace(0, 1, 12)}, "must be integers or texts, got float64"),
    ({"labels": np.zeros(12, int)}, "images of one class, '0': two are needed"),
    ({"labels": np.array(["a", "A "] * 6)}, "classes 'A ' and 'a' of .* look alike: rename one"),
    ({"labels": np.array(["a", "a\u200b"] * 6)}, "look alike: rename one"),
    ({"class_names": np.array(["a", "b"])}, "2 class_names, and labels"),
    ({"labels": np.array([None] * 12)}, "cannot be read as an .npz file"),
  ],
)
def test_arrays_of_another_form_are_refused_with_the_remedy(tmp_path, arrays, message):
  path = write_npz(tmp_path / "a.npz", **arrays)
  with pytest.raises(ValueError, match=message):
    read_image_files(path)


def test_files_that_are_no_images_are_refused(tmp_path):
  np.savez(tmp_path / "other.npz", x=np.zeros(3))
  (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
  (tmp_path / "table.csv").write_text("a,b")
  (tmp_path / "flat").mkdir()
  picture(0).save(tmp_path / "flat" / "a.png")
  for name, message in {
    "other.npz": "lacks images and labels: it holds x",
    "damaged.npz": "damaged.npz",
    "table.csv": "neither a folder nor an .npz file",
    "flat": "holds 1 images and no class folders",
    "nowhere": "there is no file or folder",
  }.items():
    with pytest.raises(ValueError, match=message):
      read_image_files([tmp_path / name])
  with pytest.raises(ValueError, match="must be different"):
    read_image_files([tmp_path / "flat"] * 2)
  with pytest.raises(ValueError, match=r"must be one, two .* got 4"):
    read_image_files([tmp_path] * 4)


@pytest.mark.parametrize(
  ("options_given", "message"),
  [
    ({"image_size": 1}, "image_size must be from 2 to 1024, got 1"),
    ({"limit": 0}, "limit must be at least 1"),
    ({"validation_examples": 16}, "below the 16 training images, got 16"),
  ],
)
def test_sizes_that_cannot_be(tmp_path, options_given, message):
  folder = write_folder(tmp_path / "photos")
  with pytest.raises(ValueError, match=message):
    read_image_files([folder], **options_given)


# Augmentation that suits them.


def test_augmentation_suits_the_size_and_the_classes():
  left_open = Augmentation(pad=None, flip=None)
  assert suited(left_open, (32, 48), ("cat", "dog")) == Augmentation(pad=4, flip=True)
  assert suited(left_open, (64, 64), ("0", "1")) == Augmentation(pad=8, flip=False)
  assert suited(Augmentation(pad=2), (64, 64)) == Augmentation(pad=2)
  with pytest.raises(ValueError, match="must be given, or found by `suited`"):
    num_distinct_views(left_open)


# A study of them.


def test_a_study_of_own_images(tmp_path):
  folder = write_folder(tmp_path / "photos", size=(16, 16))
  arguments = ["images", "--files", str(folder), "--image-size", "12", "--workdir", str(tmp_path)]
  study, where, _ = options.parse("study", arguments)
  domain = domain_of(study, where.data_dir)
  assert domain.data.kept == {"image_shape": [12, 12, 3], "class_names": ["cat", "dog"]}
  assert domain.data.augmentation == Augmentation(pad=1, flip=True)
  assert domain.data.source["files"] == [str(folder)]
  assert any("held out as the test" in note for note in domain.data.notes)
  with pytest.raises(ValueError, match="are of your own images: name them with --files"):
    options.parse("study", ["images", "--image-size", "12"])
