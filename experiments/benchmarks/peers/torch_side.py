"""PyTorch's side of each pair: eager training loops, written as its users write them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cases, torch_networks as networks
from .cases import CHANNELS_LAST, Job, Measurement

Step = Callable[[np.ndarray, int], Tensor]
"""(rows [K, B], epoch) -> the loss, detached."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def facts(job: Job) -> dict[str, Any]:
  torch.set_num_threads(job.threads)
  device = f"cuda, {torch.cuda.get_device_name()}" if DEVICE.type == "cuda" else "cpu"
  versions = {"torch": torch.__version__, "numpy": np.__version__}
  return {"device": device, "versions": versions}


def measurements(job: Job) -> Iterator[Measurement]:
  """One measurement after another of a case, from the weights that ours left."""
  return _KINDS[job.kind](job)


def resnet(job: Job, depth: int, name: str) -> nn.Module:
  """A ResNet with the weights of a file that ours left, in the side's memory format."""
  path = Path(job.folder) / f"{name}.safetensors"
  model = networks.resnet(depth, path) if path.exists() else networks.ResNet(depth)
  return model.to(DEVICE, memory_format=memory_format(job))


def memory_format(job: Job) -> torch.memory_format:
  last = job.side == CHANNELS_LAST
  return torch.channels_last if last else torch.contiguous_format


def pixels_and_logits(job: Job) -> tuple[Tensor, Tensor]:
  """[N, 3, H, W] uint8 in the side's memory format, and the cached teacher's logits."""
  images, _, logits = cases.draw_images(job.sizes, job.steps * job.sizes["batch"])
  pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
  pixels = pixels.to(DEVICE, memory_format=memory_format(job), copy=True)
  return pixels, torch.from_numpy(logits).to(DEVICE)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
  rate, momentum, decay = (cases.SGD[k] for k in ("learning_rate", "momentum", "weight_decay"))
  return torch.optim.SGD(model.parameters(), rate, momentum=momentum, weight_decay=decay)


def epochs(job: Job, step: Step) -> Iterator[Measurement]:
  """An epoch is a measurement, in the order of examples of ours' first one."""
  path = Path(job.folder) / "rows.npy"
  shape = (job.steps, 1, job.sizes["batch"])
  order = (
    np.load(path, allow_pickle=False) if path.exists() else np.arange(np.prod(shape)).reshape(shape)
  )
  for epoch in range(job.epochs):
    began = time.perf_counter()
    total = sum(step(rows, epoch) for rows in order)
    value = float(total) / len(order)  # waits for a GPU too
    yield Measurement((time.perf_counter() - began) / len(order), value)


def _images(job: Job) -> Iterator[Measurement]:
  pixels, logits = pixels_and_logits(job)
  model = resnet(job, job.sizes["depth"], "student").train()
  teacher = resnet(job, job.sizes["teacher"], "teacher").eval() if job.sizes["live"] else None
  optimizer = sgd(model)

  def step(rows: np.ndarray, epoch: int) -> Tensor:
    chosen = torch.from_numpy(rows[0]).to(DEVICE)
    batch = pixels[chosen].contiguous(memory_format=memory_format(job))
    with torch.no_grad():
      theirs = logits[chosen] if teacher is None else teacher(batch)
    optimizer.zero_grad()
    loss = F.mse_loss(model(batch), cases.anneal_factor(epoch, job.epochs) * theirs)
    loss.backward()
    optimizer.step()
    return loss.detach()

  return epochs(job, step)


def _seeds(job: Job) -> Iterator[Measurement]:
  """A run of each seed by itself: 16 networks and optimisers, one after the other."""
  images, _, logits = cases.draw_images(job.sizes, job.steps * job.sizes["batch"], depth=1)
  pixels, logits = (torch.from_numpy(array).to(DEVICE) for array in (images, logits))
  weights = networks.load(Path(job.folder) / "student.safetensors")
  models = [networks.MLP(weights, seed).to(DEVICE) for seed in range(job.sizes["seeds"])]
  optimizers = [sgd(model) for model in models]

  def step(rows: np.ndarray, epoch: int) -> Tensor:
    total = 0.0
    for chosen, model, optimizer in zip(rows, models, optimizers, strict=True):
      chosen = torch.from_numpy(chosen).to(DEVICE)
      optimizer.zero_grad()
      theirs = cases.anneal_factor(epoch, job.epochs) * logits[chosen]
      loss = F.mse_loss(model(pixels[chosen]), theirs)
      loss.backward()
      optimizer.step()
      total = total + loss.detach()
    return total / len(models)

  return epochs(job, step)


def _texts(job: Job) -> Iterator[Measurement]:
  arrays = cases.draw_texts(job.sizes, job.steps * job.sizes["batch"])
  ids, labels, logits = (torch.from_numpy(array).to(DEVICE) for array in arrays)
  labels = labels.long()
  model = networks.text_network(Path(job.folder), job.sizes).to(DEVICE).train()
  rate, decay = cases.ADAMW["learning_rate"], cases.ADAMW["weight_decay"]
  trained = [p for p in model.parameters() if p.requires_grad]
  optimizer = torch.optim.AdamW(trained, rate, weight_decay=decay)
  temperature, weight = cases.TEMPERATURE, cases.SOFT_WEIGHT

  def step(rows: np.ndarray, epoch: int) -> Tensor:
    chosen = torch.from_numpy(rows[0]).to(DEVICE)
    optimizer.zero_grad()
    own = model(ids[chosen])
    soft = F.kl_div(
      F.log_softmax(own / temperature, dim=1),
      F.log_softmax(logits[chosen] / temperature, dim=1),
      reduction="batchmean",
      log_target=True,
    )
    hard = F.cross_entropy(own, labels[chosen])
    loss = (1 - weight) * hard + weight * temperature**2 * soft
    loss.backward()
    nn.utils.clip_grad_norm_(trained, cases.ADAMW["clip_norm"])
    optimizer.step()
    return loss.detach()

  return epochs(job, step)


def _image_outputs(job: Job) -> Iterator[Measurement]:
  pixels, _ = pixels_and_logits(job)
  return _predict(job, resnet(job, job.sizes["depth"], "student"), pixels)


def _text_outputs(job: Job) -> Iterator[Measurement]:
  ids, _, _ = cases.draw_texts(job.sizes, job.steps * job.sizes["batch"])
  model = networks.text_network(Path(job.folder), job.sizes).to(DEVICE)
  return _predict(job, model, torch.from_numpy(ids).to(DEVICE))


@torch.inference_mode()
def _predict(job: Job, model: nn.Module, inputs: Tensor) -> Iterator[Measurement]:
  model.eval()
  while True:
    began = time.perf_counter()
    logits = np.concatenate(
      [model(part).cpu().numpy() for part in inputs.split(job.sizes["batch"])]
    )
    seconds = time.perf_counter() - began
    yield Measurement(seconds / job.steps, float(np.mean(np.square(logits))))


def _structure(job: Job) -> Iterator[Measurement]:
  from .. import structures_torch

  function = structures_torch.contenders()[job.sizes["problem"]][job.side]
  torch.set_default_device(DEVICE)
  with np.load(Path(job.folder) / "arrays.npz", allow_pickle=False) as file:
    tensors = [torch.from_numpy(file[name]).to(DEVICE) for name in file]

  def run(calls: int) -> tuple[float, tuple[Tensor, ...]]:
    began = time.perf_counter()
    for _ in range(calls):
      outputs = function(*tensors)
    if DEVICE.type == "cuda":
      torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls, outputs

  def seconds_with(threads: int) -> float:
    torch.set_num_threads(threads)
    return min(run(1)[0] for _ in range(5))

  # The arrays are so small that one thread may be faster than all.
  torch.set_num_threads(min((1, job.threads), key=seconds_with))
  while True:
    seconds, outputs = run(cases.CALLS * job.steps)
    yield Measurement(seconds, sum(float(x.detach().square().mean()) for x in outputs))


_KINDS = {
  "images": _images,
  "start": _images,
  "seeds": _seeds,
  "texts": _texts,
  "image outputs": _image_outputs,
  "text outputs": _text_outputs,
  "structure": _structure,
}
