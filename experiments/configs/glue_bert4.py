"""GLUE with BERT-base and a student of 4 of its layers: the setting of ALP-KD and Universal-KD.

    python -m experiments.study glue_bert4 --task rte --teacher-weights FOLDER

FOLDER holds bert-base-uncased in the form of Hugging Face: config.json, model.safetensors, tokenizer.json or
vocab.txt. The student starts from the lowest four layers. Needs a GPU: a task takes minutes to hours there.
What the papers do not say is ours: 10 epochs (the teacher 3), AdamW at 5e-5.
"""

from kd_jax.models.text_spec import TextSpec

from ..domains.text_study import ADAMW, TextStudy, published

# Whether the published MRPC is F1 or accuracy is not known to us: it is left out.
TASKS = ("cola", "sst2", "stsb", "qqp", "mnli", "qnli", "rte")

CONFIG = TextStudy(
  name="glue_bert4",
  task="rte",
  teacher_weights="bert-base-uncased",
  teacher_optimizer=ADAMW,
  student=TextSpec(layers=4),
  assistant=TextSpec(layers=6),
  epochs=10,
  seeds=5,
  papers=published(
    "Wu et al. 2021, GLUE development sets",
    "BERT-base to 4 layers",
    TASKS,
    alp_kd=(33.1, 90.4, 87.6, 90.5, 79.6, 87.0, 67.2),
    universal_kd=(34.2, 90.6, 87.9, 90.7, 79.6, 87.1, 67.9),
  ),
)
