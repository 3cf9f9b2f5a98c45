from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file, save_file

from kd_jax.models import (
  CifarResNet,
  load_torch_cifar_resnet,
  save_torch_cifar_resnet,
  torch_cifar_resnet_depth,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TEACHER = DATA / "teachers" / "resnet20_cifar10.safetensors"
IMAGENET = {"pixel_mean": (0.485, 0.456, 0.406), "pixel_std": (0.229, 0.224, 0.225)}


def random_variables(depth=8, num_classes=10):
  """Variables of a network in which nothing, running statistics included, is 0 or 1."""
  shapes = jax.eval_shape(
    lambda: CifarResNet(num_classes, depth=depth).init(
      jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8), train=False
    )
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda s: rng.uniform(0.1, 0.4, s.shape).astype(np.float32) - 0.05, shapes)


@pytest.fixture
def weights(tmp_path):
  path = tmp_path / "weights.safetensors"
  save_torch_cifar_resnet(random_variables(), path)
  return path


def rewrite(path, **changes):
  """Replaces or adds tensors of a file; None removes one."""
  tensors = load_file(path)
  for name, tensor in changes.items():
    tensors.pop(name, None)
    if tensor is not None:
      tensors[name] = tensor
  save_file(tensors, path)


def torch_forward(path, images):
  """What PyTorch computes from the file (NCHW, evaluation mode), in NumPy and float64."""
  w = {name: tensor.astype(np.float64) for name, tensor in load_file(path).items()}

  def convolve(x, kernel, stride=1):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bihwyx,oiyx->bohw", windows, kernel, optimize=True)

  def norm(x, name):
    mean, var, scale, bias = (
      w[f"{name}.{leaf}"][:, None, None]
      for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

  mean, std = (np.array(IMAGENET[key])[:, None, None] for key in ("pixel_mean", "pixel_std"))
  x = (images.transpose(0, 3, 1, 2) / 255 - mean) / std
  x = np.maximum(norm(convolve(x, w["conv1.weight"]), "bn1"), 0)
  for stage in (1, 2, 3):
    block = 0
    while f"layer{stage}.{block}.conv1.weight" in w:
      name, stride = f"layer{stage}.{block}", 1 + (stage > 1 and block == 0)
      y = np.maximum(norm(convolve(x, w[f"{name}.conv1.weight"], stride), f"{name}.bn1"), 0)
      y = norm(convolve(y, w[f"{name}.conv2.weight"]), f"{name}.bn2")
      extra = (y.shape[1] - x.shape[1]) // 2
      x = np.pad(x[:, :, ::stride, ::stride], ((0, 0), (extra, extra), (0, 0), (0, 0)))
      x, block = np.maximum(x + y, 0), block + 1
  return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


def test_round_trip_is_bit_exact(weights, tmp_path):
  variables = random_variables()
  loaded = load_torch_cifar_resnet(weights, None, 10)
  assert jax.tree.structure(loaded) == jax.tree.structure(variables)
  jax.tree.map(np.testing.assert_array_equal, loaded, variables)
  again = tmp_path / "again.safetensors"
  save_torch_cifar_resnet(jax.device_put(loaded), again)
  assert again.read_bytes() == weights.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == [again.name, weights.name]


@pytest.mark.parametrize(("depth", "num_classes"), [(8, 10), (26, 100)])
def test_depth_is_read_from_the_names(tmp_path, depth, num_classes):
  path = tmp_path / "weights.safetensors"
  save_torch_cifar_resnet(random_variables(depth, num_classes), path)
  assert torch_cifar_resnet_depth(path) == depth
  assert load_torch_cifar_resnet(path, depth, num_classes).keys() == {"params", "batch_stats"}


def test_network_computes_what_pytorch_would(weights):
  images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
  # Signed kernels, so that ReLU cuts and the logits differ from class to class.
  tensors = load_file(weights)
  kernels = {k: v - v.mean() for k, v in tensors.items() if v.ndim > 1}
  save_file(tensors | kernels, weights)
  model = CifarResNet(10, depth=8, **IMAGENET)
  got = model.apply(load_torch_cifar_resnet(weights, 8, 10), images, train=False).logits
  want = torch_forward(weights, images)
  assert np.ptp(want, axis=1).min() > 0.1
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4 * np.abs(want).max())


def test_data_parallel_names_and_counters(weights):
  plain = load_torch_cifar_resnet(weights, None, 10)
  tensors = {f"module.{name}": tensor for name, tensor in load_file(weights).items()}
  tensors["module.bn1.num_batches_tracked"] = np.array(7)
  save_file(tensors, weights)
  assert torch_cifar_resnet_depth(weights) == 8
  jax.tree.map(np.testing.assert_array_equal, load_torch_cifar_resnet(weights, 8, 10), plain)


def test_all_faults_are_named_together(weights):
  nan = np.full((16,), np.nan, np.float32)
  rewrite(
    weights,
    **{
      "layer3.0.conv2.weight": None,
      "layer2.0.shortcut.0.weight": np.zeros((32, 16, 1, 1), np.float32),
      "conv1.weight": np.zeros((16, 1, 3, 3), np.float32),
      "bn1.bias": nan,
      "bn1.running_var": np.full((16,), -1, np.float32),
      "linear.bias": np.zeros((10,), np.int32),
    },
  )
  with pytest.raises(ValueError, match="read as a ResNet-8 of 10 classes, has 6 faults") as caught:
    load_torch_cifar_resnet(weights, None, 10)
  message = str(caught.value)
  assert "\n" not in message
  for fault in (
    "missing: layer3.0.conv2.weight",
    "extra: layer2.0.shortcut.0.weight",
    "shape [16, 1, 3, 3], not [16, 3, 3, 3]: conv1.weight",
    "not finite: bn1.bias (16 of 16 values)",
    "negative variance: bn1.running_var",
    "dtype I32, not one of F32, F16, BF16: linear.bias",
  ):
    assert fault in message


def test_another_depth_or_class_count_is_refused(weights):
  with pytest.raises(ValueError, match=r"holds a ResNet-8 but depth=56 .*: set depth=8"):
    load_torch_cifar_resnet(weights, 56, 10)
  with pytest.raises(ValueError, match=r"shape \[10, 64\], not \[100, 64\]: linear.weight"):
    load_torch_cifar_resnet(weights, None, 100)


def test_a_stage_that_lacks_a_block_is_missing_tensors(tmp_path):
  path = tmp_path / "weights.safetensors"
  save_torch_cifar_resnet(random_variables(14), path)
  rewrite(path, **{name: None for name in load_file(path) if name.startswith("layer2.1.")})
  with pytest.raises(ValueError, match=r"ResNet-14 .* has 10 faults: missing: layer2\.1\.conv1"):
    load_torch_cifar_resnet(path, None, 10)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_truncated_file(weights, kept):
  weights.write_bytes(weights.read_bytes()[:kept])
  with pytest.raises(ValueError, match="not a whole safetensors file") as caught:
    load_torch_cifar_resnet(weights, None, 10)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("name", "content"),
  [("a.pth", b"anything"), ("a.safetensors", b"PK\x03\x04rest"), ("a.bin", b"\x80\x02}q.")],
)
def test_a_pickle_is_never_opened(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"nothing is unpickled .* convert it"):
    load_torch_cifar_resnet(path, None, 10)


def test_other_files(tmp_path):
  with pytest.raises(FileNotFoundError, match="no weights file"):
    torch_cifar_resnet_depth(tmp_path / "absent.safetensors")
  path = tmp_path / "other.safetensors"
  save_file({"encoder.weight": np.zeros((2, 2), np.float32)}, path)
  with pytest.raises(ValueError, match="not a CIFAR ResNet with PyTorch names"):
    torch_cifar_resnet_depth(path)


def test_variables_that_cannot_be_saved(tmp_path):
  path = tmp_path / "weights.safetensors"
  replicated = jax.tree.map(lambda leaf: leaf[None], random_variables())
  with pytest.raises(ValueError, match=r"float32\[1, 16\], not float32\[16\]: bn1.bias"):
    save_torch_cifar_resnet(replicated, path)
  broken = random_variables()
  broken["params"]["linear"]["kernel"][3, 4] = np.inf
  del broken["batch_stats"]["bn1"]["mean"]
  with pytest.raises(
    ValueError, match=r"missing: batch_stats/bn1/mean; not finite: linear\.weight"
  ):
    save_torch_cifar_resnet(broken, path)
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def cifar_test():
  if not TEACHER.exists() or not (DATA / "tfds" / "cifar10").is_dir():
    pytest.skip("needs ../shared/data/teachers and ../shared/data/tfds/cifar10")
  import tensorflow_datasets as tfds

  examples = tfds.data_source(
    "cifar10",
    split="test",
    data_dir=DATA / "tfds",
    download=False,
    builder_kwargs={"file_format": "array_record"},
  )
  rows = [examples[index] for index in range(len(examples))]
  return np.stack([row["image"] for row in rows]), np.array([row["label"] for row in rows])


def test_imported_resnet20_on_real_images(cifar_test):
  images, labels = cifar_test
  variables = load_torch_cifar_resnet(TEACHER, 20, 10)
  model = CifarResNet(10, depth=20, **IMAGENET)
  predict = jax.jit(lambda x: model.apply(variables, x, train=False).logits)
  logits = np.concatenate([predict(images[start : start + 250]) for start in range(0, 1000, 250)])
  assert len(labels) == 1000
  # Published: 91.73 % on all 10,000 test images, of which these are a tenth.
  assert abs(np.mean(logits.argmax(1) == labels) - 0.9173) < 0.02
  few = slice(0, 1000, 250)
  np.testing.assert_allclose(logits[few], torch_forward(TEACHER, images[few]), atol=2e-3)
