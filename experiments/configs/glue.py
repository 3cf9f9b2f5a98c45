"""A task of GLUE: MiniLM-L6 teaches its own lower layers.

    python -m experiments.study glue --task rte [--student.layers 2] [--max-length 64] [--train-limit 1500]
    python -m experiments.study glue --task sst2 --student.family bilstm --student.word-width 384
    python -m experiments.study glue --task cola --teacher-weights FOLDER

    task    training texts        task    training texts        task    training texts
    rte              2,490        cola             8,551        qnli           104,743
    mrpc             3,668        sst2            67,349        qqp            363,846
    stsb             5,749        wnli               635        mnli           392,702

The test split is GLUE's validation split, whose labels are public; a tenth of the training texts, at most
1,000, is held out to choose the best epoch. Each task has a folder of its own by default, runs/glue_TASK.
"""

from ..domains.text_study import TextStudy

CONFIG = TextStudy(name="glue", task="rte")
