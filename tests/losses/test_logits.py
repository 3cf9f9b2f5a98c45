"""Losses on the logits of teacher and student."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import kd_jax
from tests import contract, oracles


def pair(*shape, seed=0):
  """Student and teacher; by default of the contract's shape, for which much is compiled already."""
  shape = shape or (contract.BATCH, contract.CLASSES)
  return np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)


# Losses on labels.


def with_labels(regression, leading=(contract.BATCH,), seed=0, scale=3.0):
  rng = np.random.default_rng(seed)
  outputs = scale * rng.standard_normal((*leading, 1 if regression else contract.CLASSES))
  drawn = rng.standard_normal(leading) if regression else rng.integers(0, contract.CLASSES, leading)
  labels = np.asarray(
    scale * drawn if regression else drawn, np.float32 if regression else np.int32
  )
  return outputs.astype(np.float32), labels


LABEL_LOSSES = {
  "hard": (kd_jax.hard_label_loss, oracles.hard_label_loss, False),
  "squared": (kd_jax.squared_error_loss, oracles.squared_error_loss, True),
}
each_label_loss = pytest.mark.parametrize("name", LABEL_LOSSES)


@each_label_loss
@pytest.mark.parametrize("leading", [(), (1,), (contract.BATCH,), (2, 3)])
@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_losses_on_labels_equal_the_reference(name, leading, scale):
  loss, oracle, regression = LABEL_LOSSES[name]
  outputs, labels = with_labels(regression, leading, seed=1, scale=scale)
  eager, jitted = loss(outputs, labels), jax.jit(loss)(outputs, labels)
  for found in (eager, jitted):
    assert (found.shape, found.dtype) == (leading, jnp.float32)
    np.testing.assert_allclose(found, oracle(outputs, labels), rtol=1e-5, atol=1e-6)


@each_label_loss
def test_gradients_of_losses_on_labels_equal_central_differences(name):
  loss, oracle, regression = LABEL_LOSSES[name]
  outputs, labels = with_labels(regression, (4,), seed=2, scale=1.0)
  gradient = jax.jit(jax.grad(lambda outputs: loss(outputs, labels).sum()))(outputs)
  expected = oracles.central_differences(lambda x: oracle(x, labels).sum(), outputs)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@each_label_loss
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 3e38])
def test_padding_has_no_effect_on_losses_on_labels(name, garbage):
  loss, _, regression = LABEL_LOSSES[name]
  outputs, labels = with_labels(regression)
  mask = np.arange(contract.BATCH) % 3 != 0
  spoilt = np.where(mask[:, None], outputs, np.float32(garbage))
  wrong = np.where(mask, labels, np.float32(garbage) if regression else -100)

  def total(outputs, labels):
    values = loss(outputs, labels, mask=mask)
    return values.sum(), values

  for run in (lambda f: f, jax.jit):
    gradient, values = run(jax.grad(total, has_aux=True))(spoilt, wrong)
    np.testing.assert_allclose(values[mask], loss(outputs, labels)[mask], rtol=1e-6)
    np.testing.assert_array_equal(values[~mask], 0)
    np.testing.assert_array_equal(gradient[~mask], 0)
    plain = jax.grad(lambda outputs: loss(outputs, labels).sum())(outputs)
    np.testing.assert_allclose(gradient[mask], plain[mask], rtol=1e-5, atol=1e-7)
  with pytest.raises(ValueError, match="mask"):
    loss(outputs, labels, mask=mask[:-1])


@each_label_loss
@pytest.mark.parametrize("dtype", contract.LOW_PRECISION)
def test_losses_on_labels_upcast_first(name, dtype):
  loss, _, regression = LABEL_LOSSES[name]
  outputs, labels = with_labels(regression)
  low = jnp.asarray(outputs, dtype)
  found = loss(low, labels)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, loss(low.astype(jnp.float32), labels))


@each_label_loss
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_losses_on_labels_stay_finite(name, scale):
  loss, _, regression = LABEL_LOSSES[name]
  outputs, labels = with_labels(regression)
  extreme = np.float32(scale) * np.sign(outputs)
  value, gradient = jax.value_and_grad(lambda outputs: loss(outputs, labels).sum())(extreme)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


def test_losses_on_labels_by_hand():
  np.testing.assert_allclose(kd_jax.hard_label_loss(np.zeros(4), 2), np.log(4), rtol=1e-6)
  assert kd_jax.hard_label_loss(np.float32([0, 1e4]), 1) == 0
  np.testing.assert_allclose(kd_jax.hard_label_loss(np.float32([0, 1e4]), 0), 1e4)
  excluded = np.float32([0.0, -np.inf, 0.0])
  np.testing.assert_allclose(kd_jax.hard_label_loss(excluded, 0), np.log(2), rtol=1e-6)
  assert kd_jax.squared_error_loss(np.float32([2.5]), np.float32(2.5)) == 0
  # Whole numbers are labels too.
  found = kd_jax.squared_error_loss(np.float32([[3.0], [1.0]]), np.array([1, 4]))
  np.testing.assert_array_equal(found, [4, 9])


def test_hard_labels_are_checked():
  logits = np.zeros((4, 3), np.float32)
  for labels, message in [
    (np.zeros(5, np.int32), r"labels must be integers of shape \(4,\), got int32 \(5,\)"),
    (np.zeros((4, 1), np.int32), r"\(4,\).*\(4, 1\)"),
    (np.zeros(4, np.float32), r"labels must be integers .*float32"),
    (np.array([0, 1, 2, 3]), r"labels must be in \[0, 3\), got 0 to 3"),
    (np.array([0, -1, 2, 1]), r"labels must be in \[0, 3\), got -1 to 2"),
  ]:
    with pytest.raises(ValueError, match=message):
      kd_jax.hard_label_loss(logits, labels)
  with pytest.raises(ValueError, match="int32"):
    kd_jax.hard_label_loss(np.zeros((4, 3), np.int32), np.zeros(4, np.int32))
  traced = jax.jit(kd_jax.hard_label_loss)(logits, np.array([0, 3, -1, 2]))
  np.testing.assert_array_equal(np.isnan(traced), [False, True, True, False])


def test_numbers_are_checked():
  for outputs, labels in [((4, 2), (4,)), ((4,), (4,)), ((4, 1), (4, 1)), ((4, 1), (5,))]:
    message = rf"student_outputs .*{outputs[0]}.* must be \[..., 1\] for labels .*{labels[0]}"
    with pytest.raises(ValueError, match=message):
      kd_jax.squared_error_loss(np.zeros(outputs, np.float32), np.zeros(labels))
  with pytest.raises(ValueError, match="int32"):
    kd_jax.squared_error_loss(np.zeros((4, 1), np.int32), np.zeros(4))


# Losses on logits of both.


class TestSoftTargetKD(contract.DivergenceContract, contract.PerExampleContract):
  loss = staticmethod(kd_jax.soft_target_kd_loss)
  oracle = staticmethod(oracles.soft_target_kd_loss)
  options = contract.options(temperature=4.0)

  def test_temperature_has_no_default(self):
    with pytest.raises(TypeError):
      self.loss(*pair(4, 3))

  def test_classes_are_summed_not_averaged(self):
    student, teacher = pair()
    split = [np.concatenate([logits, logits], -1) for logits in (student, teacher)]
    expected = self.loss(student, teacher, temperature=2.0)
    np.testing.assert_allclose(self.loss(*split, temperature=2.0), expected, rtol=1e-5)

  def test_gradient_at_high_temperature_is_that_of_centred_logit_regression(self):
    """T² keeps the scale: the gradient tends to (z_s - z_t)/C, both centred over classes."""
    student, teacher = pair()

    def total(student, temperature):
      return jnp.sum(self.loss(student, teacher, temperature=temperature))

    difference = (student - student.mean(-1, keepdims=True)) - (
      teacher - teacher.mean(-1, keepdims=True)
    )
    np.testing.assert_allclose(jax.grad(total)(student, 300.0), difference / 5, atol=3e-3)


class TestLogitRegression(contract.PerExampleContract):
  loss = staticmethod(kd_jax.logit_regression_loss)
  oracle = staticmethod(oracles.logit_regression_loss)
  infinite_where_ruled_out = True

  def draw_options(self, draw, classes):
    return {}

  def test_classes_are_summed_not_averaged(self):
    assert self.loss(np.float32([3, 0, 1]), np.float32([1, 1, 1])) == 5


class TestDecoupledKD(contract.DivergenceContract, contract.PerExampleContract):
  loss = staticmethod(kd_jax.decoupled_kd_loss)
  oracle = staticmethod(oracles.decoupled_kd_loss)
  options = contract.options(temperature=4.0)

  def extras(self, rng, leading, classes):
    return {"labels": np.asarray(rng.integers(0, classes, leading), np.int32)}

  def draw_options(self, draw, classes):
    weight = st.floats(0, 10)
    return {
      "temperature": draw(st.floats(1, 20)),
      "target_weight": draw(weight),
      "non_target_weight": draw(weight),
    }

  def test_the_two_parts_make_up_ordinary_kd(self):
    """KL = KL(b_t || b_s) + (1 - p_t(target)) KL(p̂_t || p̂_s), equation 5 of the paper."""
    student, teacher = pair(6, seed=4)
    rest = 1 - oracles.softmax(teacher, 2.0)[1]
    decoupled = self.loss(
      student, teacher, np.int32(1), temperature=2.0, non_target_weight=np.float32(rest)
    )
    coupled = kd_jax.soft_target_kd_loss(student, teacher, temperature=2.0)
    np.testing.assert_allclose(decoupled, coupled, rtol=1e-5)

  def test_the_paper_s_weights_are_the_default(self):
    case = self.case()
    expected = self.oracle(case.student, case.teacher, **case.extras)
    np.testing.assert_allclose(
      self.loss(case.student, case.teacher, **case.extras), expected, rtol=1e-4
    )

  def test_labels_are_checked(self):
    student, teacher = pair(4, 3)
    with pytest.raises(ValueError, match=r"\(5,\)"):
      self.loss(student, teacher, np.zeros(5, np.int32))
    with pytest.raises(ValueError, match="float32"):
      self.loss(student, teacher, np.zeros(4, np.float32))

  def test_labels_out_of_range_are_refused_or_nan(self):
    student, teacher = pair(2, 4)
    for wrong in ([0, 4], [-1, 3]):
      with pytest.raises(ValueError, match="labels"):
        kd_jax.decoupled_kd_loss(student, teacher, np.array(wrong))
      traced = jax.jit(kd_jax.decoupled_kd_loss)(student, teacher, np.array(wrong))
      np.testing.assert_array_equal(np.isnan(traced), (np.array(wrong) < 0) | (np.array(wrong) > 3))
    kept = kd_jax.decoupled_kd_loss(student, teacher, np.array([0, -100]), mask=np.array([1, 0]))
    assert kept[1] == 0

  def test_a_teacher_that_excludes_all_other_classes(self):
    teacher = np.float32([2.0, -np.inf, -np.inf])
    student = np.float32([1.0, 0.5, 0.0])
    found, gradient = jax.value_and_grad(kd_jax.decoupled_kd_loss)(student, teacher, 0)
    log_prob = student[0] - np.log(np.exp(student).sum())
    np.testing.assert_allclose(found, -log_prob, rtol=1e-5)  # the binary term alone
    assert np.isfinite(gradient).all()


class TestDistInter(contract.TemperatureContract, contract.PerExampleContract):
  loss = staticmethod(kd_jax.dist_inter_loss)
  oracle = staticmethod(oracles.dist_inter_loss)
  options = contract.options(temperature=2.0)
  # A correlation divides by the spread of the probabilities, which is small at high temperatures.
  tolerance = 1e-4

  def test_ignores_scale_and_shift_of_the_probabilities(self):
    probabilities = np.float32([0.5, 0.3, 0.2])
    student = np.log(0.5 * probabilities + 0.5 / 3)
    np.testing.assert_allclose(self.loss(student, np.log(probabilities)), 0, atol=1e-5)
    opposite = np.log(np.float32(2 / 3) - probabilities)
    np.testing.assert_allclose(self.loss(opposite, np.log(probabilities)), 2, atol=1e-5)

  @pytest.mark.parametrize("classes", [3, 10, 11, 1000])
  def test_a_student_of_zeros_has_no_exploding_gradient(self, classes):
    teacher = np.random.default_rng(0).standard_normal(classes).astype(np.float32)
    gradient = jax.grad(kd_jax.dist_inter_loss)(jnp.zeros(classes), teacher)
    assert np.abs(gradient).max() < 10


class TestDistIntra(contract.TemperatureContract, contract.LossContract):
  loss = staticmethod(kd_jax.dist_intra_loss)
  oracle = staticmethod(oracles.dist_intra_loss)
  options = contract.options(temperature=2.0)
  leading_axes = st.sampled_from([(4,), (7,), (16,)])
  tolerance = 1e-4

  def test_padding_has_no_effect(self):
    case, mask = self.case(), np.arange(contract.BATCH) % 3 != 0
    expected = self.oracle(case.student, case.teacher, temperature=2.0, mask=mask)
    plain = contract.Case(case.student[mask], case.teacher[mask], {})
    for garbage in (np.nan, np.inf):
      padded = [np.where(mask[:, None], a, np.float32(garbage)) for a in case[:2]]
      padded = contract.Case(*padded, {})
      self.assert_close(self.call(padded, mask=mask), expected)
      self.assert_close(self.call(padded, mask=mask.astype(np.float32)), expected)
      gradients = self.gradients(padded, mask=mask, stop_teacher_gradient=False)
      for gradient, exact in zip(
        gradients, self.gradients(plain, stop_teacher_gradient=False), strict=True
      ):
        np.testing.assert_array_equal(gradient[~mask], 0)
        self.assert_close(gradient[mask], exact)

  def test_a_class_ruled_out_by_the_teacher(self):
    """Its probability does not vary, so its correlation is undefined; the others are untouched."""
    case = self.case()
    ruled_out = np.arange(contract.CLASSES) == contract.CLASSES - 1
    without, nearly = (np.where(ruled_out, np.float32(z), case.teacher) for z in (-np.inf, -80))
    expected = self.oracle(case.student, nearly, **self.options)
    self.assert_close(self.call(case._replace(teacher=without))[:-1], expected[:-1])
    assert np.all(np.isfinite(self.call(case._replace(teacher=without))))
    assert np.all(np.isfinite(self.gradients(case._replace(teacher=without))[0]))

  def test_classes_absent_from_the_batch_correlate_like_any_other(self):
    """Their probabilities are tiny, and a correlation does not depend on scale."""
    case = self.case(scale=1.0)
    case.student[:, 0] -= 15
    case.teacher[:, 0] -= 15
    expected = self.oracle(case.student, case.teacher, temperature=1.0)
    np.testing.assert_allclose(self.call(case, temperature=1.0), expected, atol=1e-3)

  def test_nothing_left_to_correlate_is_finite(self):
    case = self.case()
    for kept in (0, 1):
      mask = np.arange(contract.BATCH) < kept
      assert np.all(np.isfinite(self.call(case, mask=mask)))
      assert np.all(np.isfinite(self.gradients(case, mask=mask)[0]))

  def test_order_of_the_batch_does_not_matter(self):
    case = self.case()
    turned = case._replace(student=case.student[::-1], teacher=case.teacher[::-1])
    self.assert_close(self.call(turned), self.call(case))
    # But pairing does.
    assert not np.allclose(self.call(case._replace(student=turned.student)), self.call(case))


class TestTopKKD(contract.DivergenceContract, contract.PerExampleContract):
  options = contract.options(temperature=2.0, k=2)
  oracle = staticmethod(oracles.top_k_kd_loss)

  def loss(self, student, teacher, *, k, temperature, **keywords):
    top_k = kd_jax.top_k_targets(teacher, k, temperature=temperature)
    return kd_jax.top_k_kd_loss(student, top_k, temperature=temperature, **keywords)

  def draw_options(self, draw, classes):
    return {"temperature": draw(st.floats(1, 20)), "k": draw(st.integers(1, classes - 1))}

  @pytest.mark.parametrize("garbage", [np.nan, np.inf])
  def test_padding_has_no_effect(self, garbage):
    """Garbage in the stored targets, as a padded cache row would have it."""
    case, mask = self.case(), np.arange(contract.BATCH) % 3 != 0
    top_k = kd_jax.top_k_targets(case.teacher, 2)
    spoilt = kd_jax.TopK(
      np.where(mask[:, None], top_k.indices, -1),
      np.where(mask[:, None], top_k.log_probs, np.float32(garbage)),
      np.where(mask, top_k.tail_log_prob, np.float32(garbage)),
    )
    student = np.where(mask[:, None], case.student, np.float32(garbage))
    value = kd_jax.top_k_kd_loss(student, spoilt, mask=mask)
    np.testing.assert_array_equal(value[~mask], 0)
    self.assert_close(value[mask], kd_jax.top_k_kd_loss(case.student, top_k)[mask])

    def total(student, log_probs, tail):
      targets = spoilt._replace(log_probs=log_probs, tail_log_prob=tail)
      loss = kd_jax.top_k_kd_loss(student, targets, mask=mask, stop_teacher_gradient=False)
      return jnp.sum(loss)

    gradients = jax.grad(total, (0, 1, 2))(student, spoilt.log_probs, spoilt.tail_log_prob)
    for gradient in gradients:
      np.testing.assert_array_equal(gradient[~mask], 0)
      assert np.all(np.isfinite(gradient))
      assert np.any(gradient != 0)

  def test_shapes_and_types_are_checked(self):
    student, teacher = pair(4, 5)
    top_k = kd_jax.top_k_targets(teacher, 2)
    with pytest.raises(ValueError, match=r"(?s)\(3, 5\).*\(4, 2\)|\(4, 2\).*\(3, 5\)"):
      kd_jax.top_k_kd_loss(student[:3], top_k)
    with pytest.raises(ValueError, match="2"):
      kd_jax.top_k_kd_loss(student[:, :2], top_k)  # k classes leave no tail
    with pytest.raises(ValueError, match="int32"):
      kd_jax.top_k_kd_loss(np.ones((4, 5), np.int32), top_k)
    with pytest.raises(ValueError, match="int32"):
      kd_jax.top_k_targets(np.ones((4, 5), np.int32), 2)

  @pytest.mark.parametrize("k", [0, 5, 6, -1])
  def test_k_must_leave_a_tail(self, k):
    with pytest.raises(ValueError, match=rf"{k}"):
      kd_jax.top_k_targets(pair(4, 5)[0], k)

  def test_targets(self):
    _, teacher = pair(2, 3, 6)
    actual = kd_jax.top_k_targets(teacher, 2, temperature=3.0)
    indices, log_probs, tail = oracles.top_k(teacher, 2, temperature=3.0)
    np.testing.assert_array_equal(actual.indices, indices)
    np.testing.assert_allclose(actual.log_probs, log_probs, rtol=1e-5)
    np.testing.assert_allclose(actual.tail_log_prob, tail, rtol=1e-5)
    assert actual.indices.dtype == jnp.int32
    assert actual.log_probs.dtype == jnp.float32

  def test_a_tiny_tail_is_not_lost_to_rounding(self):
    """1 - sum of the top k is 0 in float32 here; the tail is 3 e^-50 and the loss is large."""
    confident = np.float32([50, 0, 0, 0])
    top_k = kd_jax.top_k_targets(confident, 1)
    np.testing.assert_allclose(top_k.tail_log_prob, np.log(3) - 50, rtol=1e-6)
    flat = kd_jax.top_k_targets(np.zeros(4, np.float32), 1)
    expected = oracles.top_k_kd_loss(confident, np.zeros(4), 1)
    np.testing.assert_allclose(kd_jax.top_k_kd_loss(confident, flat), expected, rtol=1e-5)

  def test_memory_does_not_grow_with_k_times_the_classes(self):
    """At B = 128, k = 64, C = 32,000 an array of their product takes 1 GB in float32."""
    student = jax.ShapeDtypeStruct((128, 32_000), jnp.float32)
    top_k = kd_jax.TopK(
      jax.ShapeDtypeStruct((128, 64), jnp.int32),
      jax.ShapeDtypeStruct((128, 64), jnp.float32),
      jax.ShapeDtypeStruct((128,), jnp.float32),
    )

    def total(student, top_k):
      return jnp.sum(kd_jax.top_k_kd_loss(student, top_k, temperature=2.0))

    for function, arguments in (
      (jax.value_and_grad(total), (student, top_k)),
      (lambda teacher: kd_jax.top_k_targets(teacher, 64), (student,)),
    ):
      sizes = [
        variable.aval.size
        for equation in contract.equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        for variable in equation.outvars
      ]
      assert max(sizes) == 128 * 32_000

  def test_approaches_full_kd_from_below_as_k_grows(self):
    case = self.case()
    full = kd_jax.soft_target_kd_loss(case.student, case.teacher, temperature=2.0)
    parts = [self.call(case, k=k) for k in range(1, contract.CLASSES)]
    for fewer, more in itertools.pairwise(parts):
      assert np.all(fewer <= more + 1e-5)
    assert np.all(parts[0] < full)
    np.testing.assert_allclose(parts[-1], full, rtol=1e-4, atol=1e-5)

  def test_top_one_still_tells_students_apart(self):
    """Renormalising the top class alone would give 0 whatever the student says."""
    teacher = np.float32([2, 0, 0, 0])
    top_k = kd_jax.top_k_targets(teacher, 1)
    assert kd_jax.top_k_kd_loss(teacher, top_k) == pytest.approx(0, abs=1e-6)
    assert kd_jax.top_k_kd_loss(np.zeros(4, np.float32), top_k) > 0.1

  def test_targets_stored_in_half_precision_serve(self):
    student, teacher = pair()
    top_k = kd_jax.top_k_targets(teacher, 2)
    stored = kd_jax.TopK(
      np.asarray(top_k.indices, np.int64),
      *(np.asarray(a, np.float16) for a in top_k[1:]),
    )
    loss = kd_jax.top_k_kd_loss(student, stored)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, kd_jax.top_k_kd_loss(student, top_k), atol=5e-3)
