"""Images, sentences and texts with stable example ids, and augmentation as a pure function of (id, view)."""

from kd_jax.data.augmentation import (
  Augmentation,
  augment,
  augment_batch,
  describe,
  num_distinct_views,
  suited,
)
from kd_jax.data.corpora import SequenceSplits, load_parsing, load_tagging
from kd_jax.data.dataset import Dataset
from kd_jax.data.examples import Bucket, Examples
from kd_jax.data.glue import load_glue, read_glue
from kd_jax.data.image_files import ImageSplits, read_image_files
from kd_jax.data.labelled import hide_labels, labelled_part, num_labelled
from kd_jax.data.raw_texts import RawSplits, RawTexts, TextSplits, tokenize
from kd_jax.data.sequences import SequenceDataset
from kd_jax.data.sources import (
  KNOWN,
  DatasetNotPrepared,
  Splits,
  default_data_dir,
  load,
  parts_missing,
  prepared_dir,
)
from kd_jax.data.text_files import load_text_files, read_sample, read_text_files
from kd_jax.data.texts import TextDataset
from kd_jax.data.tokenization import Tokenizer, check_vocabulary
from kd_jax.data.unlabelled_texts import add_unlabelled_texts, hide_text_labels
from kd_jax.data.vocabulary import Vocabulary

__all__ = [
  "KNOWN",
  "Augmentation",
  "Bucket",
  "Dataset",
  "DatasetNotPrepared",
  "Examples",
  "ImageSplits",
  "RawSplits",
  "RawTexts",
  "SequenceDataset",
  "SequenceSplits",
  "Splits",
  "TextDataset",
  "TextSplits",
  "Tokenizer",
  "Vocabulary",
  "add_unlabelled_texts",
  "augment",
  "augment_batch",
  "check_vocabulary",
  "default_data_dir",
  "describe",
  "hide_labels",
  "hide_text_labels",
  "labelled_part",
  "load",
  "load_glue",
  "load_parsing",
  "load_tagging",
  "load_text_files",
  "num_distinct_views",
  "num_labelled",
  "parts_missing",
  "prepared_dir",
  "read_glue",
  "read_image_files",
  "read_sample",
  "read_text_files",
  "suited",
  "tokenize",
]
