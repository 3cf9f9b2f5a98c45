"""GLUE with RoBERTa-large and DistilRoBERTa: the setting of Annealing-KD (arXiv 2104.07163).

    python -m experiments.study glue_distilroberta --task rte --teacher-weights FOLDER --student-weights FOLDER

The folders hold roberta-large and distilroberta-base in the form of Hugging Face. Needs a GPU. Temperatures 7,
..., 1 over 14 epochs, then 4 epochs on the labels; AdamW at 2e-5, linear decay, batch 32, 128 subwords. Every
method has the same 18 epochs.
"""

import dataclasses

from kd_jax.models.text_spec import TextSpec

from ..domains.text_study import ADAMW, SETTINGS, TextStudy, published

TASKS = ("cola", "rte", "mrpc", "stsb", "sst2", "qnli", "qqp", "mnli")
_OPTIMIZER = dataclasses.replace(ADAMW, learning_rate=2e-5)
_ANNEALING = dataclasses.replace(SETTINGS.annealing_kd, max_temperature=7, anneal_epochs=14)
# Layers cannot be compared one to one across these widths: Patient KD and ALP-KD project them.
_PROJECTED = {
  name: dataclasses.replace(getattr(SETTINGS, name), project=True)
  for name in ("patient_kd", "alp_kd")
}

CONFIG = TextStudy(
  name="glue_distilroberta",
  task="rte",
  teacher_weights="roberta-large",
  student_weights="distilroberta-base",
  teacher_optimizer=_OPTIMIZER,
  teacher_epochs=5,
  student=TextSpec(family="roberta", layers=6),
  assistant=TextSpec(family="roberta", layers=12),
  optimizer=_OPTIMIZER,
  epochs=18,
  seeds=5,
  settings=dataclasses.replace(SETTINGS, annealing_kd=_ANNEALING, **_PROJECTED),
  papers=published(
    "Jafari et al. 2021 as re-reported by later papers (Universal-KD: Wu et al. 2021), GLUE development sets",
    "RoBERTa-large to DistilRoBERTa",
    TASKS,
    scratch=(59.3, 67.9, 88.6, 88.5, 92.5, 90.8, 90.9, 84.0),
    kd=(60.97, 71.11, 90.2, 88.86, 92.54, 91.37, 91.64, 84.18),
    annealing_kd=(61.67, 73.64, 90.6, 89.01, 93.11, 91.64, 91.5, 85.34),
    # Whether their MRPC (87.8) is F1 or accuracy is not known to us.
    universal_kd_capacity_gap=(63.0, 74.0, None, 89.9, 93.5, 91.6, 91.7, 83.9),
  ),
)
