"""Word vectors that are frozen, or of a part of the vocabulary: the same network, with less that is trained."""

import jax
import numpy as np
import pytest

from kd_jax import recipes
from kd_jax.models import build_text_model, parameter_count
from kd_jax.models.word_embedding import (
  WordEmbedding,
  freeze_words,
  kept_subwords,
  thaw,
  vocabulary_table,
)
from kd_jax.optimizers import Optimizer
from kd_jax.recipes.parts import Budget
from kd_jax.training.evaluation import texts
from kd_jax.training.loop import Task, fresh_variables, train_recipe
from tests.text_inputs import SIZES, VOCAB, built, spec, subwords
from tests.training import texts as data

PLAIN = ("bilstm", "gated_cnn")


def words_of(tree):
  return tree["encoder"]["embedding"]["word_embedding"]


@pytest.mark.parametrize("family", PLAIN)
def test_frozen_words_change_nothing_but_where_they_stand(family):
  _, params, apply = built(spec(family))
  frozen = build_text_model(spec(family, freeze_words=True), **SIZES)
  variables = freeze_words(params)
  shapes = jax.tree.map(np.shape, variables)
  abstract = jax.eval_shape(frozen.init, jax.random.key(0), subwords())
  assert shapes == jax.tree.map(lambda leaf: leaf.shape, abstract)
  assert "word_embedding" not in variables["params"]["encoder"]["embedding"]
  jax.tree.map(np.testing.assert_array_equal, thaw(variables), {"params": params})
  logits = jax.jit(frozen.apply)(variables, subwords()).logits
  np.testing.assert_allclose(logits, apply(params, subwords()).logits, atol=1e-6)
  assert parameter_count(variables) == parameter_count({"params": params})


def test_a_smaller_vocabulary_reads_other_subwords_as_unknown():
  unknown, batch = 1, subwords()
  kept = kept_subwords(batch.ids[:1], [0, unknown])
  _, params, apply = built(spec("bilstm"))
  few = build_text_model(
    spec("bilstm", vocabulary="data", freeze_words=True), kept_subwords=len(kept), **SIZES
  )
  variables = freeze_words(params)
  words = words_of(variables["frozen"])
  whole = words["embedding"]
  words["embedding"] = whole[kept]
  table = vocabulary_table(kept, VOCAB, unknown)
  variables["vocabulary"] = {"encoder": {"embedding": {"word_embedding": {"rows": table}}}}
  # The second and third text hold subwords that the first has not.
  read = np.where(np.isin(batch.ids, kept), batch.ids, unknown)
  assert (read != batch.ids)[batch.mask].any()
  expected = apply(params, batch._replace(ids=read)).logits
  logits = jax.jit(few.apply)(variables, batch).logits
  np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_until_a_table_is_given_the_last_row_stands_for_further_subwords():
  embedding = WordEmbedding(vocab_size=5, width=2, kept=3)
  variables = embedding.init(jax.random.key(0), np.arange(5))
  vectors = embedding.apply(variables, np.arange(5))
  np.testing.assert_array_equal(
    vectors, variables["params"]["embedding"][np.array([0, 1, 2, 2, 2])]
  )


@pytest.mark.parametrize(
  ("kept", "unknown", "message"),
  [([0, 2], 1, "unknown must be one of the kept subwords, got 1"), ([0, 9], 0, "got 9")],
)
def test_tables_that_cannot_be_are_refused(kept, unknown, message):
  with pytest.raises(ValueError, match=message):
    vocabulary_table(kept, 9, unknown)


def test_frozen_words_are_not_trained():
  """No step, no weight decay and no optimiser state; all else is trained."""
  text = spec("gated_cnn", width=4, freeze_words=True, vocabulary="data")
  kept = data.WORDS - 2
  model = build_text_model(
    text, vocab_size=data.WORDS, num_outputs=data.CLASSES, kept_subwords=kept
  )
  optimizer = Optimizer(name="adamw", learning_rate=0.1, decay="constant", weight_decay=0.1)
  recipe = recipes.scratch(recipes.Classes(data.CLASSES), Budget(1, optimizer))
  train = data.dataset(lengths=(3, 4, 2, 4))
  task = Task(
    model, train, train, batch_size=8, seeds=(0, 1), one_dispatch=True, evaluation=texts("accuracy")
  )
  states = [report.state for _, report in train_recipe(task, recipe)]
  fresh = fresh_variables(task)
  train = states[-1].train
  np.testing.assert_array_equal(
    words_of(train.variables["frozen"])["embedding"], words_of(fresh["frozen"])["embedding"]
  )
  np.testing.assert_array_equal(
    words_of(train.variables["vocabulary"])["rows"], words_of(fresh["vocabulary"])["rows"]
  )
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), train.variables["params"], fresh["params"]
  )
  assert all(jax.tree.leaves(moved))
  assert not [x for x in jax.tree.leaves(train.opt_state) if kept in x.shape]
