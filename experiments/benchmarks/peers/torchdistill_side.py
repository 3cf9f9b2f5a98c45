"""torchdistill's side: its own box trains, on batches that are in memory already.

Its loader and its logger are left out, which favours it; its loss is a module of ours, as it has no
Annealing-KD.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torchdistill
from torch import Tensor, nn
from torchdistill.core.distillation import get_distillation_box

from . import cases, torch_side
from .cases import Job, Measurement


def facts(job: Job) -> dict[str, Any]:
  found = torch_side.facts(job)
  return found | {"versions": found["versions"] | {"torchdistill": torchdistill.__version__}}


class _Anneal(nn.Module):
  """||z_s - Phi(T) z_t||² / C, in the form of torchdistill's losses."""

  factor = 1.0

  def forward(self, student: dict, teacher: dict, targets: Any) -> Tensor:
    return nn.functional.mse_loss(student["."]["output"], self.factor * teacher["."]["output"])


def measurements(job: Job) -> Iterator[Measurement]:
  pixels, _ = torch_side.pixels_and_logits(job)
  student = torch_side.resnet(job, job.sizes["depth"], "student")
  teacher = torch_side.resnet(job, job.sizes["teacher"], "teacher").eval()
  loss = _Anneal()
  names = {"learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}
  config = {
    "num_epochs": job.epochs,
    "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
    "student": {"forward_proc": "forward_batch_only"},
    "criterion": {
      "key": "WeightedSumLoss",
      "kwargs": {"sub_terms": {"anneal": {"criterion": loss, "weight": 1.0}}},
      "func2extract_model_loss": "extract_model_loss_dict",
    },
    "optimizer": {"key": "SGD", "kwargs": {names[k]: value for k, value in cases.SGD.items()}},
  }
  box = get_distillation_box(teacher, student, {}, config, torch_side.DEVICE, None, False, 1)

  def step(rows: np.ndarray, epoch: int) -> Tensor:
    loss.factor = cases.anneal_factor(epoch, job.epochs)
    batch = pixels[torch.from_numpy(rows[0]).to(torch_side.DEVICE)]
    box.pre_forward_process()
    found = box.forward_process(batch)
    box.post_forward_process(loss=found)
    return found.detach()

  box.pre_epoch_process(epoch=0)
  return torch_side.epochs(job, step)
