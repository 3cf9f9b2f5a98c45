"""Which lengths sentences and texts are padded to."""

import dataclasses
from typing import TypeVar

from kd_jax.data.examples import worthwhile_lengths
from kd_jax.data.sequences import SequenceDataset
from kd_jax.data.texts import TextDataset

Padded = TypeVar("Padded", SequenceDataset, TextDataset)


def with_few_buckets(split: Padded) -> Padded:
  """The same sentences or texts, without buckets that are not worth a program of their own."""
  if split.bucket_lengths is None:
    return split
  lengths = worthwhile_lengths(split.lengths, split.bucket_lengths)
  return dataclasses.replace(split, bucket_lengths=lengths)
