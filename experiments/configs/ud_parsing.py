"""Dependency parsing (Universal Dependencies, English EWT): structural KD, cases 1b and 2b (arXiv 2010.05010).

A biaffine parser, of first (1b) or second order (2b), teaches parsing as tagging. Scores are of universal
relations, with punctuation, as in the CoNLL 2018 shared task; trees are decoded with one root.

With 3,652 training sentences of at most 32 tokens case 1b takes about half an hour on two processor cores;
structural KD beats training from scratch there by 1.0 points of LAS: see experiments/results.

    python -m experiments.study ud_parsing --case 2b [--train-limit 4000 --max-length 32 --tag-min-count 2]
    python -m experiments.study ud_parsing --files train.conllu dev.conllu test.conllu
    python -m experiments.study ud_parsing --dataset sample --min-count 1 --batch-size 8    # built in
"""

from kd_jax.models.sequence_spec import SequenceSpec
from kd_jax.optimizers import Optimizer

from ..domains.sequence_study import ParsingStudy

_ADAM = Optimizer(name="adam", learning_rate=2e-3, decay="linear", weight_decay=0.0, clip_norm=5.0)

CONFIG = ParsingStudy(
  name="ud_parsing",
  batch_size=32,
  max_length=64,
  cache_dtype="float16",
  teacher=SequenceSpec(width=128, layers=2),
  teacher_epochs=20,
  teacher_optimizer=_ADAM,
  student=SequenceSpec(word_width=32, character_width=16, width=64, dropout=0.2),
  epochs=20,
  optimizer=_ADAM,
  seeds=3,
)
