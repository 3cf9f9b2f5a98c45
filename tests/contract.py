"""What every loss must satisfy, as base classes that the loss tests inherit.

A test class names the loss, its reference in oracles.py and a few options; the properties come from
here. `LossContract` holds for any loss on logits; `PerExampleContract` adds what holds where
each example has a loss of its own.
"""

import re
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests import oracles

sampled = hypothesis.settings(
  max_examples=8,
  deadline=None,
  derandomize=True,
  database=None,
  # One inherited test runs in many classes, by design.
  suppress_health_check=[hypothesis.HealthCheck.differing_executors],
)

BATCH, CLASSES = 16, 5
LOW_PRECISION = (jnp.bfloat16, jnp.float16)


def options(**values):
  """Options of a test class: read-only, since all of its tests share them."""
  return types.MappingProxyType(values)


def equations(jaxpr):
  """All equations of a program, those of its inner programs too."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from equations(inner)


class Case(NamedTuple):
  """Inputs of a loss: two arrays of logits, and what else each example has (such as labels)."""

  student: np.ndarray
  teacher: np.ndarray
  extras: dict[str, np.ndarray]


class LossContract:
  """Properties of a loss of student and teacher logits.

  Attributes:
    loss: the function under test, `loss(student, teacher, **extras, **options)`.
    oracle: its float64 reference, called in the same way.
    options: arguments for the tests that need only one value of them.
    traced: the options that may be traced values under jit.
    zero_at_equality: whether loss(z, z) is 0; `matching_student` may say where else it is.
    infinite_where_ruled_out: whether a class that the teacher rules out (logit -inf) but the
      student does not makes the loss infinite by definition.
    tolerance: relative and absolute error allowed against the reference.
  """

  loss: Any
  oracle: Any
  options: Mapping[str, Any] = types.MappingProxyType({})
  traced: tuple[str, ...] = ("temperature",)
  zero_at_equality = True
  infinite_where_ruled_out = False
  tolerance = 2e-5

  def extras(self, rng, leading, classes):
    return {}

  def draw_options(self, draw, classes):
    return {"temperature": draw(st.floats(1, 20))}

  def matching_student(self, teacher):
    return teacher

  leading_axes = st.sampled_from([(), (4,), (2, 3)])

  def case(self, leading=(BATCH,), classes=CLASSES, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    student, teacher = scale * rng.standard_normal((2, *leading, classes)).astype(np.float32)
    return Case(student, teacher, self.extras(rng, leading, classes))

  def call(self, case, **changes):
    return self.loss(case.student, case.teacher, **case.extras, **(self.options | changes))

  def gradients(self, case, **changes):
    """Gradients of the summed loss to student and teacher."""

    def total(student, teacher):
      return jnp.sum(self.call(Case(student, teacher, case.extras), **changes))

    return jax.grad(total, argnums=(0, 1))(case.student, case.teacher)

  def assert_close(self, actual, expected, scale=1.0):
    bound = scale * self.tolerance
    magnitude = float(np.max(np.abs(expected), initial=1.0))
    np.testing.assert_allclose(actual, expected, rtol=bound, atol=bound * magnitude)

  @sampled
  @hypothesis.given(data=st.data())
  def test_equals_the_reference(self, data):
    leading, classes = data.draw(self.leading_axes), data.draw(st.integers(2, 12))
    scale = data.draw(st.sampled_from([0.3, 1.0, 3.0, 10.0]))
    case = self.case(leading, classes, data.draw(st.integers(0, 10**6)), scale)
    options = self.draw_options(data.draw, classes)
    # Under jit, since each shape is new: one compilation instead of one for each operation.
    traced = {name: options[name] for name in self.traced if name in options}
    static = {name: value for name, value in options.items() if name not in traced}
    actual = jax.jit(lambda case, traced: self.loss(*case[:2], **case.extras, **static, **traced))(
      case, traced
    )
    expected = self.oracle(case.student, case.teacher, **case.extras, **options)
    assert isinstance(actual, jax.Array)
    assert actual.dtype == jnp.float32
    assert actual.shape == expected.shape
    self.assert_close(actual, expected)
    # Every loss here is a divergence, a distance or a cross-entropy.
    assert np.min(actual) >= -self.tolerance * max(1.0, np.max(expected))

  def test_is_zero_at_equality(self):
    if not self.zero_at_equality:
      # Then the loss must not pretend to be a divergence.
      assert np.all(self.call(self.case()._replace(student=self.case().teacher)) > 1e-3)
      return
    for scale in (1.0, 100.0):
      teacher = self.case(scale=scale).teacher
      case = self.case()._replace(student=self.matching_student(teacher), teacher=teacher)
      np.testing.assert_allclose(self.call(case), 0, atol=2e-5)

  def test_gradients_equal_central_differences_of_the_reference(self):
    case = self.case((4,), seed=1, scale=1.0)
    options = {**self.options, **case.extras}
    gradients = jax.jit(lambda case: self.gradients(case, stop_teacher_gradient=False))(case)
    for side, gradient in zip(("student", "teacher"), gradients, strict=True):

      def reference(logits, side=side):
        changed = case._replace(**{side: logits})
        return np.sum(self.oracle(changed.student, changed.teacher, **options))

      expected = oracles.central_differences(reference, getattr(case, side))
      self.assert_close(gradient, expected, 5)

  def test_teacher_gets_no_gradient_unless_asked(self):
    student, teacher = self.gradients(self.case())
    assert np.any(student != 0)
    np.testing.assert_array_equal(teacher, 0)
    same_student, teacher = self.gradients(self.case(), stop_teacher_gradient=False)
    assert np.any(teacher != 0)
    self.assert_close(same_student, student)

  @pytest.mark.parametrize("extreme", ["large", "flat", "equal", "certain", "certain teacher"])
  def test_loss_and_gradients_stay_finite(self, extreme):
    case = self.case()
    signs = 1e4 * np.sign(case.student), 1e4 * np.sign(case.teacher)
    certain = np.where(np.arange(CLASSES) == 0, 1e4, 0).astype(np.float32)
    certain = np.broadcast_to(certain, case.student.shape)
    student, teacher = {
      "large": signs,
      "flat": (0 * case.student, 0 * case.teacher),
      "equal": (case.student, case.student),
      "certain": (certain, certain[:, ::-1]),
      "certain teacher": (0 * certain, certain),
    }[extreme]
    case = case._replace(student=student, teacher=teacher)
    assert np.all(np.isfinite(self.call(case)))
    for gradient in self.gradients(case, stop_teacher_gradient=False):
      assert np.all(np.isfinite(gradient))

  def test_a_class_ruled_out_by_the_teacher(self):
    case = self.case()
    teacher = case.teacher.copy()
    teacher[:, -1] = -np.inf
    case = case._replace(teacher=teacher)
    if self.infinite_where_ruled_out:
      assert np.all(self.call(case) > 1e3)
      return
    reference = self.oracle(case.student, case.teacher, **case.extras, **self.options)
    self.assert_close(self.call(case), reference)
    assert np.all(np.isfinite(self.gradients(case)[0]))

  @pytest.mark.parametrize("dtype", LOW_PRECISION)
  def test_low_precision_is_upcast_first(self, dtype):
    case = self.case()
    low = case._replace(
      student=jnp.asarray(case.student, dtype), teacher=jnp.asarray(case.teacher, dtype)
    )
    exact = case._replace(
      student=low.student.astype(jnp.float32), teacher=low.teacher.astype(jnp.float32)
    )
    assert self.call(low).dtype == jnp.float32
    self.assert_close(self.call(low), self.call(exact))
    gradient, exact_gradient = self.gradients(low)[0], self.gradients(exact)[0]
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient.astype(jnp.float32), exact_gradient, rtol=1e-2, atol=1e-4)

  def test_jit_equals_eager_with_traced_options(self):
    case = self.case()
    traced = {name: self.options[name] for name in self.traced if name in self.options}

    def jitted(case, traced):
      return self.call(case, **traced), self.gradients(case, **traced)

    value, (gradient, _) = jax.jit(jitted)(case, traced)
    self.assert_close(value, self.call(case))
    self.assert_close(gradient, self.gradients(case)[0])

  def test_shapes_and_types_are_checked(self):
    case = self.case()
    for wrong in (case.student[:, :-1], case.student[:4]):
      shapes = (re.escape(str(shape)) for shape in (wrong.shape, case.teacher.shape))
      with pytest.raises(ValueError, match="(?s){0}.*{1}|{1}.*{0}".format(*shapes)):
        self.call(case._replace(student=wrong))
    for side in ("student", "teacher"):
      with pytest.raises(ValueError, match="int32"):
        self.call(case._replace(**{side: np.ones(case.student.shape, np.int32)}))


class TemperatureContract:
  """Beside LossContract: a loss with a temperature refuses one below 1."""

  takes_numbers = False

  @pytest.mark.parametrize("temperature", [0.5, 0, -1.0, np.float32(0.9), float("nan")])
  def test_temperature_below_one_is_refused(self, temperature):
    with pytest.raises(ValueError, match="temperature"):
      self.call(self.case(), temperature=temperature)

  def test_the_gradient_to_a_temperature_is_finite(self):
    """Also beside a class that the teacher rules out, where dividing its logit gives 0 · inf."""
    case = self.case((4,))
    if not self.infinite_where_ruled_out:
      teacher = case.teacher.copy()
      teacher[:, -1] = -np.inf
      case = case._replace(teacher=teacher)

    def total(temperature):
      return jnp.sum(self.call(case, temperature=temperature))

    assert np.isfinite(jax.grad(total)(3.0))

  def test_one_class_is_refused(self):
    """Its softmax is 1 whatever its logit: but a number may be learnt from a number."""
    case = self.case((4,), classes=2)
    case = case._replace(student=case.student[..., :1], teacher=case.teacher[..., :1])
    if self.takes_numbers:
      assert np.all(np.isfinite(self.call(case)))
      return
    with pytest.raises(ValueError, match=r"at least 2 classes|k must be"):
      self.call(case)

  def test_each_distribution_may_have_its_own_temperature(self):
    """As many classes as examples: a temperature [B] must not land on the classes."""
    case, temperatures = self.case((4,), classes=4), np.float32([1, 2, 4, 8])
    if not isinstance(self, PerExampleContract):
      pytest.skip("the batch is one sample here, at one temperature")
    found = self.call(case, temperature=temperatures)
    for row, temperature in enumerate(temperatures):
      alone = jax.tree.map(lambda values, row=row: values[row], case)
      self.assert_close(found[row], self.call(alone, temperature=temperature))
    with pytest.raises(ValueError, match="temperature"):
      self.call(case, temperature=temperatures[:, None])


class DivergenceContract(TemperatureContract):
  """Beside LossContract: what a student that has nearly converged sees of a divergence."""

  def test_small_values_are_accurate_and_not_negative(self):
    """p (log p - log q) alone loses them: its terms are far larger than their sum."""
    case = self.case()
    noise = np.random.default_rng(6).standard_normal(case.teacher.shape).astype(np.float32)
    case = case._replace(student=case.teacher + np.float32(0.02) * noise)
    for temperature in (1.0, 20.0):
      options = self.options | {"temperature": temperature}
      expected = self.oracle(case.student, case.teacher, **case.extras, **options)
      value = self.call(case, temperature=temperature)
      assert np.all(value >= 0)
      np.testing.assert_allclose(value, expected, rtol=2e-2)


class PerExampleContract(LossContract):
  """Properties of a loss [..., C] -> [...], one value for each example."""

  @pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
  def test_padding_has_no_effect(self, garbage):
    case = self.case()
    mask = np.arange(BATCH) % 3 != 0
    padded = self.pad(case, mask, garbage)
    value = self.call(padded, mask=mask)
    np.testing.assert_array_equal(value[~mask], 0)
    self.assert_close(value[mask], self.call(case)[mask])
    plain = self.gradients(case, stop_teacher_gradient=False)
    masked = self.gradients(padded, stop_teacher_gradient=False, mask=mask)
    for gradient, expected in zip(masked, plain, strict=True):
      np.testing.assert_array_equal(gradient[~mask], 0)
      self.assert_close(gradient[mask], expected[mask])

  def pad(self, case, mask, garbage):
    """Puts garbage where the mask is 0, and an impossible label."""

    def fill(values, filler):
      keep = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
      return np.where(keep, values, np.asarray(filler, values.dtype))

    extras = {name: fill(values, -100) for name, values in case.extras.items()}
    return Case(fill(case.student, garbage), fill(case.teacher, garbage), extras)

  def test_masks_of_every_kind(self):
    case = self.case((2, 3))
    rows, columns = np.array([True, False]), np.array([[True, False, True]])
    by_row = np.broadcast_to(rows[:, None], (2, 3))
    for kept, masks in (
      # A mask of fewer axes than the result belongs to the leading ones, as in masked_mean.
      (by_row, (rows, rows[:, None], by_row, by_row.astype(np.int32), jnp.asarray(rows, float))),
      (np.broadcast_to(columns, (2, 3)), (columns,)),
    ):
      expected = np.where(kept, self.call(case), 0)
      for mask in masks:
        np.testing.assert_allclose(self.call(case, mask=mask), expected, rtol=1e-6)
    np.testing.assert_array_equal(self.call(case, mask=np.zeros((2, 1))), np.zeros((2, 3)))
    # A mask may not change the shape of the result.
    for wrong in ((3,), (3, 2), (2, 3, 1), (5, 2, 3)):
      with pytest.raises(ValueError, match="mask"):
        self.call(case, mask=np.ones(wrong, bool))

  def test_batch_permutation(self):
    case, order = self.case(), np.random.default_rng(2).permutation(BATCH)
    self.assert_close(
      self.call(jax.tree.map(lambda values: values[order], case)), self.call(case)[order]
    )

  def test_vmap_and_pmap_equal_eager(self):
    case = self.case()
    mask = np.arange(BATCH) % 4 != 0
    expected = self.call(case, mask=mask)
    self.assert_close(
      jax.jit(jax.vmap(lambda case, mask: self.call(case, mask=mask)))(case, mask), expected
    )
    devices = jax.local_device_count()
    shards = jax.tree.map(
      lambda values: values.reshape(devices, -1, *values.shape[1:]), (case, mask)
    )
    sharded = jax.pmap(lambda case, mask: self.call(case, mask=mask))(*shards)
    self.assert_close(np.asarray(sharded).reshape(-1), expected)
