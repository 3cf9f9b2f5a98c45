"""What is compared: cases, their sizes, their data, and the libraries compared with.

Both sides of a pair read this file, so it imports neither JAX nor PyTorch.
"""

import importlib.util
from typing import Any, NamedTuple

import numpy as np

OURS = "kd_jax"
PYTORCH, CHANNELS_LAST = "PyTorch", "PyTorch, channels-last"
LOOP, PRODUCTS, SLOGDET = "PyTorch loop", "PyTorch loop of matrix products", "PyTorch slogdet"
TORCHDISTILL, TORCH_STRUCT, PYTORCH_CRF = "torchdistill", "torch-struct", "pytorch-crf"
PACKAGES = {
  **dict.fromkeys((PYTORCH, CHANNELS_LAST, LOOP, PRODUCTS, SLOGDET), ("torch",)),
  TORCHDISTILL: ("torch", "torchdistill"),
  TORCH_STRUCT: ("torch", "torch_struct"),
  PYTORCH_CRF: ("torch", "torchcrf"),
}
"""The modules that each peer needs."""

CLASSES = 10
# The constants that the common PyTorch weights for CIFAR ResNets were trained with.
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SGD = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
ADAMW = {"learning_rate": 5e-5, "weight_decay": 0.01, "clip_norm": 1.0}
TEMPERATURE, SOFT_WEIGHT = 4.0, 0.9
MAX_TEMPERATURE = 2
CALLS = 10
"""Calls of exact inference in one step: a single one is too short to be timed."""


class Case(NamedTuple):
  """A comparison.

  Attributes:
    about: what one step computes, with its sizes.
    kind: how it is built: images, seeds, texts, image outputs, text outputs, structure, start.
    sizes: numbers by name.
    quick: sizes that replace them in a check that all runs.
    peers: what ours is compared with, in order.
    unit: what a time belongs to.
  """

  about: str
  kind: str
  sizes: dict[str, Any]
  quick: dict[str, Any]
  peers: tuple[str, ...]
  unit: str = "step"


_EAGER = (PYTORCH, CHANNELS_LAST)
_IMAGES = {"batch": 128, "side": 32, "depth": 8, "teacher": 56}
_SMALL_IMAGES = {"batch": 8, "side": 8, "teacher": 8}
_BILSTM = {"batch": 32, "vocab": 30522, "family": "bilstm", "layers": 1, "width": 150}
_BILSTM |= {"word_width": 384}
_BERT = {"batch": 32, "vocab": 30522, "family": "bert", "layers": 3, "width": 384}
_BERT |= {"heads": 12, "hidden": 1536}
_SMALL_BILSTM = {"batch": 8, "vocab": 50, "width": 8, "word_width": 12, "length": 5}
_SMALL_BERT = {"batch": 8, "vocab": 50, "layers": 1, "width": 8, "heads": 2, "hidden": 16}
_SMALL_BERT |= {"length": 5}
_KD = "train step of KD on cached logits, AdamW, vocabulary 30,522, batch 32"


def _texts(what: str, sizes: dict[str, Any], quick: dict[str, Any], length: int) -> Case:
  about = f"{what}, {length} tokens: {_KD}"
  return Case(about, "texts", sizes | {"length": length}, quick, (PYTORCH,))


def _structure(problem: str, about: str, *peers: str, **sizes: int) -> Case:
  return Case(about, "structure", {"problem": problem} | sizes, {"B": 2, "n": 6}, peers, "call")


CASES = {
  "resnet8-cached": Case(
    "ResNet-8, batch 128, 32×32: train step of Annealing-KD's phase I with a cached teacher, SGD",
    "images",
    _IMAGES | {"live": 0},
    _SMALL_IMAGES,
    _EAGER,
  ),
  "resnet8-live": Case(
    "the same with ResNet-56 as the teacher, run in every step",
    "images",
    _IMAGES | {"live": 1},
    _SMALL_IMAGES,
    (*_EAGER, TORCHDISTILL),
  ),
  "mlp-16-seeds": Case(
    "MLP 64-16-10, batch 64: train step of phase I of 16 seeds, ours as one program",
    "seeds",
    {"batch": 64, "side": 8, "hidden": 16, "seeds": 16},
    {"batch": 8, "seeds": 2},
    (PYTORCH,),
    "step of all seeds",
  ),
  "bilstm-16": _texts("BiLSTM, 384 to 2 × 150", _BILSTM, _SMALL_BILSTM, 16),
  "bilstm-32": _texts("BiLSTM, 384 to 2 × 150", _BILSTM, _SMALL_BILSTM, 32),
  "bert3-16": _texts("3-layer BERT, width 384", _BERT, _SMALL_BERT, 16),
  "bert3-32": _texts("3-layer BERT, width 384", _BERT, _SMALL_BERT, 32),
  "precompute-images": Case(
    "ResNet-56, batch 500, 32×32: logits of one batch",
    "image outputs",
    {"batch": 500, "side": 32, "depth": 56},
    _SMALL_IMAGES | {"depth": 8},
    _EAGER,
    "batch",
  ),
  "precompute-texts": Case(
    "6-layer BERT, width 384, batch 128, 32 tokens: logits of one batch",
    "text outputs",
    _BERT | {"layers": 6, "batch": 128, "length": 32},
    _SMALL_BERT,
    (PYTORCH,),
    "batch",
  ),
  "case-1a": _structure(
    "case 1a",
    "loss of CRF to CRF and its gradients, B = 32, n = 64, L = 17",
    *(LOOP, PRODUCTS, TORCH_STRUCT),
  ),
  "case-2a": _structure(
    "case 2a",
    "loss of CRF to independent tags and its gradients, B = 32, n = 64, L = 17",
    *(LOOP, PRODUCTS, TORCH_STRUCT),
  ),
  "crf-likelihood": _structure(
    "likelihood",
    "negative log-likelihood of a CRF and its gradients, B = 32, n = 64, L = 17",
    *(LOOP, PRODUCTS, PYTORCH_CRF),
  ),
  "case-4": _structure(
    "case 4", "BIOES marginals of span scores, B = 32, n = 40, R = 4", LOOP, TORCH_STRUCT
  ),
  "matrix-tree": _structure(
    "matrix-tree", "log Z of trees and its gradient, B = 32, n = 40", SLOGDET, TORCH_STRUCT
  ),
  "eisner": _structure(
    "projective", "log Z of projective trees and its gradient, B = 32, n = 40", TORCH_STRUCT
  ),
  "first-step-cold": Case(
    "from the start of a process to the end of its first step of ResNet-8, nothing compiled before",
    "start",
    _IMAGES | {"live": 0, "warm": 0},
    _SMALL_IMAGES,
    (PYTORCH,),
    "start",
  ),
  "first-step-cache": Case(
    "the same with the compile cache that an earlier run filled",
    "start",
    _IMAGES | {"live": 0, "warm": 1},
    _SMALL_IMAGES,
    (PYTORCH,),
    "start",
  ),
}


class Job(NamedTuple):
  """What one side of a pair is asked to build.

  Attributes:
    side: `OURS` or a peer.
    kind: of the case.
    sizes: of the case.
    steps: in one measurement.
    epochs: how many measurements are asked for at most.
    threads: of the processor.
    folder: where ours leaves weights and the order of examples for the other side.
  """

  side: str
  kind: str
  sizes: dict[str, Any]
  steps: int
  epochs: int
  threads: int
  folder: str


class Measurement(NamedTuple):
  """Seconds of a step, and a number that both sides must agree on: the mean loss of the steps."""

  seconds: float
  value: float


def missing(peer: str) -> list[str]:
  """The modules that a peer lacks here."""
  return [name for name in PACKAGES[peer] if importlib.util.find_spec(name) is None]


def anneal_factor(epoch: int, epochs: int) -> float:
  """Phi(T) of an epoch of phase I: T = 2 in its first half, then 1."""
  temperature = MAX_TEMPERATURE if epoch < epochs // MAX_TEMPERATURE else 1
  return 1 - (temperature - 1) / MAX_TEMPERATURE


def draw_images(sizes: dict[str, Any], count: int, depth: int = 3):
  """Random pixels [N, H, W, D] uint8, labels [N] and teacher logits [N, C]."""
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (count, sizes["side"], sizes["side"], depth), np.uint8)
  labels = generator.integers(0, CLASSES, count).astype(np.int32)
  return images, labels, 3 * generator.standard_normal((count, CLASSES), np.float32)


def draw_texts(sizes: dict[str, Any], count: int):
  """Random subwords [N, n] without padding, labels [N] and teacher logits [N, 2]."""
  generator = np.random.default_rng(0)
  ids = generator.integers(1, sizes["vocab"], (count, sizes["length"])).astype(np.int32)
  labels = generator.integers(0, 2, count).astype(np.int32)
  return ids, labels, 3 * generator.standard_normal((count, 2), np.float32)
