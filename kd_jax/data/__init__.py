"""Image data sets with stable example ids, and augmentation as a pure function of (id, view)."""

from kd_jax.data.augmentation import (
  Augmentation,
  augment,
  augment_batch,
  describe,
  num_distinct_views,
)
from kd_jax.data.dataset import Dataset
from kd_jax.data.sources import (
  KNOWN,
  DatasetNotPrepared,
  Splits,
  default_data_dir,
  load,
  prepared_dir,
)

__all__ = [
  "KNOWN",
  "Augmentation",
  "Dataset",
  "DatasetNotPrepared",
  "Splits",
  "augment",
  "augment_batch",
  "default_data_dir",
  "describe",
  "load",
  "num_distinct_views",
  "prepared_dir",
]
