"""QNLI of GLUE (104,743 training texts): MiniLM-L6 teaches its own lower layers.

    python -m experiments.study glue_qnli [--student.layers 2] [--max-length 64] [--train-limit 1500]
    python -m experiments.study glue_qnli --student.family bilstm --student.width 128 --student.word-width 384
    python -m experiments.study glue_qnli --teacher-weights FOLDER

The test split is GLUE's validation split, whose labels are public; a tenth of the training texts, at most
1,000, is held out to choose the best epoch.
"""

from experiments.domains.text_study import TextStudy

CONFIG = TextStudy(name="glue_qnli", task="qnli")
