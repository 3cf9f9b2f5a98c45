"""Named entities (CoNLL-03): structural KD in cases 1a, 2a, 3 and 4 (arXiv 2010.05010).

BiLSTM taggers with words and a character CNN, all learnt from the training sentences: no word vectors from
elsewhere, so that the level of the scores is lower than the paper's. With 4,000 training sentences a case
with three methods takes about 20 minutes on two processor cores, and no method beats training from scratch
(78.1 F1) beyond its interval: see experiments/results.

    python -m experiments.study conll_ner --case 2a [--train-limit 4000]
    python -m experiments.study conll_ner --files train.conll dev.conll test.conll
    python -m experiments.study conll_ner --dataset sample --min-count 1 --batch-size 8    # built in

The sample shows that the machinery works, not how well: its 48 sentences teach nothing.
"""

from kd_jax.models.sequence_spec import SequenceSpec
from kd_jax.optimizers import Optimizer

from ..domains.sequence_study import TaggingStudy

_ADAM = Optimizer(name="adam", learning_rate=2e-3, decay="linear", weight_decay=0.0, clip_norm=5.0)

CONFIG = TaggingStudy(
  name="conll_ner",
  batch_size=32,
  teacher=SequenceSpec(width=128),
  teacher_epochs=20,
  teacher_optimizer=_ADAM,
  student=SequenceSpec(word_width=32, character_width=16, width=32, dropout=0.2),
  epochs=20,
  optimizer=_ADAM,
  seeds=3,
)
