"""The networks of the cases in plain PyTorch, with weights that kd_jax wrote."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import Tensor, nn

from .cases import CLASSES, PIXEL_MEAN, PIXEL_STD


def load(path: Path) -> dict[str, Tensor]:
  return {name: torch.from_numpy(array) for name, array in load_file(path).items()}


class _Block(nn.Module):
  def __init__(self, inputs: int, outputs: int, stride: int):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    self.bn1 = nn.BatchNorm2d(outputs)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    self.bn2 = nn.BatchNorm2d(outputs)
    self.stride, self.new = stride, outputs - inputs

  def forward(self, x: Tensor) -> Tensor:
    y = F.relu(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    if self.new:
      half = self.new // 2
      x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new - half))
    return F.relu(y + x)


class ResNet(nn.Module):
  """The CIFAR residual network with option-A shortcuts, of pixels [B, 3, H, W] in [0, 255]."""

  def __init__(self, depth: int):
    super().__init__()
    self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    self.bn1 = nn.BatchNorm2d(16)
    inputs = 16
    for stage, outputs in enumerate((16, 32, 64), start=1):
      blocks = []
      for index in range((depth - 2) // 6):
        blocks.append(_Block(inputs, outputs, 2 if stage > 1 and index == 0 else 1))
        inputs = outputs
      self.add_module(f"layer{stage}", nn.Sequential(*blocks))
    self.linear = nn.Linear(64, CLASSES)
    for name, values in (("mean", PIXEL_MEAN), ("std", PIXEL_STD)):
      self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

  def forward(self, pixels: Tensor) -> Tensor:
    x = (pixels.float() / 255 - self.mean) / self.std
    x = F.relu(self.bn1(self.conv1(x)))
    x = self.layer3(self.layer2(self.layer1(x)))
    return self.linear(x.mean(dim=(2, 3)))


def resnet(depth: int, weights: Path) -> ResNet:
  model = ResNet(depth)
  # Only the counters of batches are absent from the file.
  absent, extra = model.load_state_dict(load(weights), strict=False)
  if extra or any(not name.endswith("num_batches_tracked") for name in absent):
    raise ValueError(f"{weights} is not of a ResNet-{depth}: {absent + extra}")
  return model


class MLP(nn.Module):
  """One hidden layer, of pixels [B, D] in [0, 255]; weights of one seed of several."""

  def __init__(self, weights: Mapping[str, Tensor], seed: int):
    super().__init__()
    for name in ("hidden1", "linear"):
      kernel, bias = (weights[f"{name}/{leaf}"][seed] for leaf in ("kernel", "bias"))
      self.add_module(name, _linear(kernel, bias))

  def forward(self, pixels: Tensor) -> Tensor:
    return self.linear(F.relu(self.hidden1(pixels.float().flatten(1) / 255)))


def _linear(kernel: Tensor, bias: Tensor) -> nn.Linear:
  layer = nn.Linear(*kernel.shape)
  layer.weight.data, layer.bias.data = kernel.T.contiguous(), bias.clone()
  return layer


class BiLSTM(nn.Module):
  """Word vectors, normalised, a bidirectional LSTM, and a classifier on the mean over tokens."""

  def __init__(self, weights: Mapping[str, Tensor]):
    super().__init__()
    words = weights["encoder/embedding/word_embedding/embedding"]
    self.words = nn.Embedding.from_pretrained(words, freeze=False)
    self.norm = nn.LayerNorm(words.shape[1], eps=1e-6)
    self.norm.weight.data = weights["encoder/embedding/embedding_norm/scale"]
    self.norm.bias.data = weights["encoder/embedding/embedding_norm/bias"]
    width = weights["encoder/layer1/forward1/hi/bias"].shape[0]
    self.lstm = nn.LSTM(words.shape[1], width, batch_first=True, bidirectional=True)
    for direction, suffix in (("forward1", ""), ("backward1", "_reverse")):
      start = f"encoder/layer1/{direction}"
      for side, name in (("i", "ih"), ("h", "hh")):
        kernels = [weights[f"{start}/{side}{gate}/kernel"].T for gate in "ifgo"]
        getattr(self.lstm, f"weight_{name}_l0{suffix}").data = torch.cat(kernels).contiguous()
      biases = torch.cat([weights[f"{start}/h{gate}/bias"] for gate in "ifgo"])
      getattr(self.lstm, f"bias_hh_l0{suffix}").data = biases
      # PyTorch has a second bias of the same effect: it stays 0, so that both sides train alike.
      second = getattr(self.lstm, f"bias_ih_l0{suffix}")
      second.data.zero_()
      second.requires_grad_(False)
    self.lstm.flatten_parameters()
    for name in ("pooler", "classifier"):
      self.add_module(name, _linear(weights[f"{name}/kernel"], weights[f"{name}/bias"]))

  def forward(self, ids: Tensor) -> Tensor:
    states, _ = self.lstm(self.norm(self.words(ids)))
    return self.classifier(torch.tanh(self.pooler(states.mean(dim=1))))


class BERT(nn.Module):
  """PyTorch's own transformer layers with the weights of a BERT in Hugging Face's names."""

  def __init__(self, weights: Mapping[str, Tensor], layers: int, heads: int):
    super().__init__()

    def norm(name: str) -> nn.LayerNorm:
      made = nn.LayerNorm(len(weights[f"{name}.weight"]), eps=1e-12)
      made.load_state_dict({leaf: weights[f"{name}.{leaf}"] for leaf in ("weight", "bias")})
      return made

    for short in ("word", "position", "token_type"):
      table = weights[f"bert.embeddings.{short}_embeddings.weight"]
      self.add_module(short, nn.Embedding.from_pretrained(table, freeze=False))
    self.norm = norm("bert.embeddings.LayerNorm")
    self.layers = nn.ModuleList()
    for index in range(layers):
      start = f"bert.encoder.layer.{index}"
      hidden, width = weights[f"{start}.intermediate.dense.weight"].shape
      layer = nn.TransformerEncoderLayer(
        width, heads, hidden, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
      )
      names = {"self_attn.out_proj": "attention.output.dense", "linear1": "intermediate.dense"}
      names |= {"linear2": "output.dense", "norm1": "attention.output.LayerNorm"}
      names |= {"norm2": "output.LayerNorm"}
      state = {}
      for leaf in ("weight", "bias"):
        parts = [weights[f"{start}.attention.self.{n}.{leaf}"] for n in ("query", "key", "value")]
        state[f"self_attn.in_proj_{leaf}"] = torch.cat(parts)
        state |= {f"{own}.{leaf}": weights[f"{start}.{n}.{leaf}"] for own, n in names.items()}
      layer.load_state_dict(state)
      self.layers.append(layer)
    for own, name in (("pooler", "bert.pooler.dense"), ("classifier", "classifier")):
      self.add_module(own, _linear(weights[f"{name}.weight"].T, weights[f"{name}.bias"]))

  def forward(self, ids: Tensor) -> Tensor:
    positions = torch.arange(ids.shape[1], device=ids.device)
    x = self.word(ids) + self.position(positions) + self.token_type(torch.zeros_like(ids))
    x = self.norm(x)
    for layer in self.layers:
      x = layer(x)
    return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def text_network(folder: Path, sizes: Mapping) -> nn.Module:
  if sizes["family"] == "bert":
    return BERT(load(folder / "bert" / "model.safetensors"), sizes["layers"], sizes["heads"])
  return BiLSTM(load(folder / "student.safetensors"))
