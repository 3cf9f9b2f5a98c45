"""Images and sentences with stable example ids, and augmentation as a pure function of (id, view)."""

from kd_jax.data.augmentation import (
  Augmentation,
  augment,
  augment_batch,
  describe,
  num_distinct_views,
)
from kd_jax.data.corpora import SequenceSplits, load_parsing, load_tagging
from kd_jax.data.dataset import Dataset
from kd_jax.data.sequences import SequenceDataset
from kd_jax.data.sources import (
  KNOWN,
  DatasetNotPrepared,
  Splits,
  default_data_dir,
  load,
  prepared_dir,
)
from kd_jax.data.vocabulary import Vocabulary

__all__ = [
  "KNOWN",
  "Augmentation",
  "Dataset",
  "DatasetNotPrepared",
  "SequenceDataset",
  "SequenceSplits",
  "Splits",
  "Vocabulary",
  "augment",
  "augment_batch",
  "default_data_dir",
  "describe",
  "load",
  "load_parsing",
  "load_tagging",
  "num_distinct_views",
  "prepared_dir",
]
