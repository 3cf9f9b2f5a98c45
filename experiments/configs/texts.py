"""Your own texts, from CSV, TSV or JSONL files; without files a small built-in sample.

    python -m experiments.study texts --files train.csv test.csv --text-column review --label-column stars
    python -m experiments.study texts --files train.jsonl dev.jsonl test.jsonl --pair-column answer
    python -m experiments.study texts --files train.csv test.csv --regression --label-column score
    python -m experiments.study texts --teacher-weights none    # the sample, no pretrained weights

The sample shows that the machinery works, not how well: its invented sentences teach nothing.
"""

from ..domains.text_study import TextStudy

CONFIG = TextStudy(name="texts", task="sample", batch_size=16)
