import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from kd_jax.models import (
  FAMILIES,
  MLP,
  CifarResNet,
  ModelSpec,
  PlainCNN,
  build_model,
  is_convolutional,
  parameter_count,
)
from kd_jax.models.blocks import batch_norm, normalise_pixels
from kd_jax.models.resnet import option_a_shortcut

IMAGE = (32, 32, 3)
# TAKD's layer lists (arXiv 1902.03393, released code): C convolution, M pooling, F dense.
PLAIN = {
  (2, 10): "C16 M C16 M F10",
  (4, 10): "C16 C16 M C32 C32 M F10",
  (6, 10): "C16 C16 M C32 C32 M C64 C64 M F10",
  (8, 10): "C16 C16 M C32 C32 M C64 C64 M C128 C128 M F64 F10",
  (10, 10): "C32 C32 M C64 C64 M C128 C128 M C256 C256 C256 C256 M F128 F10",
  (2, 100): "C32 M C32 M F100",
  (4, 100): "C32 C32 M C64 C64 M F100",
  (6, 100): "C32 C32 M C64 C64 M C128 C128 F100",
  (8, 100): "C32 C32 M C64 C64 M C128 C128 M C256 C256 M F64 F100",
  (10, 100): "C32 C32 M C64 C64 M C128 C128 M C256 C256 C256 C256 M F512 F100",
}


def abstract(model, image=IMAGE, batch=2, dtype=jnp.uint8):
  """Shapes of variables and outputs, without computing anything."""
  images = jax.ShapeDtypeStruct((batch, *image), dtype)
  variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
  return variables, jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)


def pixels(seed, *shape):
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
  ("model", "image", "layers"),
  [
    (MLP(5, hidden=(7, 6)), (8, 8), [(2, 7), (2, 6)]),
    (MLP(5, hidden=(7, 6), batch_norm=True), (8, 8), [(2, 7), (2, 6)]),
    (MLP(5, hidden=()), (64,), []),
    (MLP(5, hidden=(7,)), IMAGE, [(2, 7)]),
    (CifarResNet(5, depth=14), IMAGE, [(2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64)]),
    (CifarResNet(5, width=3), (9, 7, 1), [(2, 9, 7, 3), (2, 5, 4, 6), (2, 3, 2, 12)]),
    (PlainCNN(10, depth=2), (28, 28, 1), [(2, 14, 14, 16), (2, 7, 7, 16)]),
    (PlainCNN(100, depth=6), IMAGE, [(2, 16, 16, 32), (2, 8, 8, 64), (2, 8, 8, 128)]),
    (
      PlainCNN(10, depth=10),
      IMAGE,
      [(2, 16, 16, 32), (2, 8, 8, 64), (2, 4, 4, 128), (2, 2, 2, 256), (2, 128)],
    ),
  ],
)
def test_shapes(model, image, layers):
  variables, outputs = abstract(model, image)
  assert outputs.logits.shape == (2, model.num_classes)
  assert outputs.logits.dtype == jnp.float32
  assert [layer.shape for layer in outputs.layers] == layers
  assert ("batch_stats" in variables) == getattr(model, "batch_norm", True)


@pytest.mark.parametrize(("depth", "published"), [(20, 269_722), (56, 853_018), (110, 1_727_962)])
def test_resnet_parameters(depth, published):
  n = (depth - 2) // 6
  counted = 9 * 3 * 16 + 2 * 16 + 65 * 10
  for inputs, features in ((16, 16), (16, 32), (32, 64)):
    counted += 9 * inputs * features + (2 * n - 1) * 9 * features**2 + 2 * n * 2 * features
  assert parameter_count(abstract(CifarResNet(10, depth=depth))[0]) == counted == published


@pytest.mark.parametrize(("depth", "num_classes"), PLAIN)
def test_plain_cnn_parameters(depth, num_classes):
  side, width, counted, dense = 32, 3, 0, False
  for layer in PLAIN[depth, num_classes].split():
    kind, size = layer[0], int(layer[1:] or 0)
    if kind == "C":
      counted += 9 * width * size + 2 * size
      width = size
    elif kind == "M":
      side //= 2
    else:
      counted += (width if dense else side * side * width) * size + size
      width, dense = size, True
  assert parameter_count(abstract(PlainCNN(num_classes, depth=depth))[0]) == counted


@pytest.mark.parametrize(("stride", "features"), [(1, 4), (2, 8), (2, 7)])
def test_option_a_shortcut(stride, features):
  x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
  rows, columns = range(0, 5, stride), range(0, 6, stride)
  expected = np.zeros((2, len(rows), len(columns), features), np.float32)
  first = (features - 4) // 2
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      expected[:, i, j, first : first + 4] = x[:, row, column]
  np.testing.assert_array_equal(option_a_shortcut(jnp.asarray(x), features, stride), expected)


def test_normalisation():
  images = pixels(0, 2, 4, 4, 3)
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  expected = (images.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(normalise_pixels(images, mean, std), expected, atol=1e-5)
  same = normalise_pixels(images.astype(np.float32), mean, std)
  np.testing.assert_array_equal(normalise_pixels(images, mean, std), same)
  model = MLP(3, hidden=(), pixel_mean=mean, pixel_std=std)
  variables = model.init(jax.random.key(0), images, train=False)
  dense = variables["params"]["linear"]
  logits = model.apply(variables, images, train=False).logits
  np.testing.assert_allclose(logits, expected.reshape(2, -1) @ dense["kernel"], atol=1e-4)
  with pytest.raises(ValueError, match=r"pixel_mean has 2 values .* 3 channels"):
    normalise_pixels(images, (0.5, 0.5), std)
  with pytest.raises(ValueError, match="pixel_std must be positive"):
    normalise_pixels(images, mean, (0.2, 0.0, 0.2))


def test_batch_norm_keeps_pytorch_momentum():
  x = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(16, 4, 4, 2)), jnp.float32)
  norm = batch_norm(train=True, axis_name=None, dtype=jnp.float32)(name=None)
  y, changed = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
  mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
  np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4)
  np.testing.assert_allclose(changed["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-4)


@pytest.mark.parametrize("family", ["resnet", "plain_cnn"])
def test_batch_statistics_are_those_of_all_shards(family):
  spec = ModelSpec(family=family, depth={"resnet": 8, "plain_cnn": 2}[family])
  images = pixels(1, 6, 8, 8, 3)
  whole, split = build_model(spec, 4), build_model(spec, 4, axis_name="batch")
  variables = split.init(jax.random.key(0), images, train=False)

  def train(model):
    def run(x):
      outputs, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])
      return outputs.logits, changed["batch_stats"]

    return run

  logits, stats = jax.jit(train(whole))(images)
  shards = images.reshape(2, 3, 8, 8, 3)
  shard_logits, shard_stats = jax.jit(jax.vmap(train(split), axis_name="batch"))(shards)
  np.testing.assert_allclose(shard_logits.reshape(6, 4), logits, rtol=1e-3, atol=1e-4)
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, [want, want], rtol=1e-3, atol=1e-5),
    shard_stats,
    stats,
  )
  if family == "plain_cnn":  # Without the axis name the shards would go their own ways.
    apart = jax.jit(jax.vmap(train(whole)))(shards)[0]
    assert np.abs(apart.reshape(6, 4) - logits).max() > 1e-2
  assert np.isfinite(split.apply(variables, images, train=False).logits).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near_float32(family):
  spec = ModelSpec(family=family, depth={"plain_cnn": 4}.get(family, 8), pixel_mean=(0.5,))
  images = pixels(2, 8, 16, 16, 3)
  single, half = build_model(spec, 10), build_model(spec, 10, dtype=jnp.bfloat16)
  variables = half.init(jax.random.key(0), images, train=False)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
  want = single.apply(variables, images, train=False)
  got = half.apply(variables, images, train=False)
  assert got.logits.dtype == jnp.float32
  assert {layer.dtype for layer in got.layers} == {jnp.dtype(jnp.bfloat16)}
  scale = float(np.abs(want.logits).max())
  assert 0 < np.abs(got.logits - want.logits).max() < 0.05 * scale


@pytest.mark.parametrize(("depth", "nearest"), [(10, "8 and 14"), (19, "14 and 20"), (2, "is 8")])
def test_resnet_depth_names_the_nearest(depth, nearest):
  with pytest.raises(ValueError, match=rf"6n \+ 2.* got {depth}: .*{nearest}"):
    CifarResNet(10, depth=depth)


def test_what_cannot_be_built_is_refused():
  with pytest.raises(ValueError, match="depth 2, 4, 6, 8, 10, got 3"):
    build_model(ModelSpec(family="plain_cnn", depth=3), 10)
  with pytest.raises(ValueError, match="one of mlp, resnet, plain_cnn, got 'vit'"):
    build_model(ModelSpec(family="vit"), 10)
  with pytest.raises(ValueError, match="num_classes=1"):
    build_model(ModelSpec(), 1)
  with pytest.raises(ValueError, match="positive, got"):
    build_model(ModelSpec(hidden=(8, 0)), 10)
  with pytest.raises(ValueError, match=r"needs 16 pixels a side, got 8x8"):
    abstract(PlainCNN(10, depth=8), (8, 8, 1))
  with pytest.raises(ValueError, match=r"got shape \(2, 8, 8\): add the missing axis"):
    abstract(CifarResNet(10), (8, 8))


def test_spec_is_a_command_line():
  args = ["--family", "resnet", "--depth", "20", "--pixel-mean", "0.4", "0.5", "0.6"]
  spec = tyro.cli(ModelSpec, args=args)
  assert spec == ModelSpec(family="resnet", depth=20, pixel_mean=(0.4, 0.5, 0.6))
  assert is_convolutional(spec)
  model = build_model(spec, 100, axis_name="batch")
  assert model == CifarResNet(100, depth=20, axis_name="batch", pixel_mean=(0.4, 0.5, 0.6))
