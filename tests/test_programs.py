"""What is compiled is kept by what it depends on, up to a bound."""

import functools

import pytest

from kd_jax import _programs as programs


@pytest.fixture(autouse=True)
def _nothing_kept():
  programs.forget()
  yield
  programs.forget()


def test_equal_keys_share_what_was_made():
  made = [programs.kept(("a", 1), object), programs.kept(("a", 1), object)]
  assert made[0] is made[1]
  assert programs.kept(("a", 2), object) is not made[0]
  programs.forget()
  assert programs.kept(("a", 1), object) is not made[0]


def test_the_one_not_used_for_longest_goes_first():
  first = programs.kept(0, object)
  second = programs.kept(1, object)
  for key in range(2, programs.MOST):
    programs.kept(key, object)
  assert programs.kept(0, object) is first
  programs.kept("one too many", object)
  assert programs.kept(0, object) is first
  assert programs.kept(1, object) is not second


def test_what_cannot_be_compared_is_not_kept():
  key = ("loss", {"a": 1})
  assert programs.kept(key, object) is not programs.kept(key, object)


def scale(x, *, factor, offset=0):
  return factor * x + offset


def test_partials_are_equal_if_they_do_the_same():
  def key(*args, **keywords):
    return programs.key_of(functools.partial(scale, *args, **keywords))

  assert key(factor=2, offset=1) == key(offset=1, factor=2)
  assert key(factor=2) != key(factor=3)
  assert key(factor=2) != key(factor=2, offset=0)
  assert key(factor=1) != key(factor=True) != key(factor=1.0)
  assert programs.key_of(scale) is scale
  nested = functools.partial(functools.partial(scale, factor=2), offset=1)
  assert programs.key_of(nested) == key(factor=2, offset=1)
