"""What the functions of `kd_jax.structured` need of a structure, for type checkers."""

from typing import Protocol, TypeVar

from kd_jax.types import ArrayLike


class Structure(Protocol):
  """The scores of a distribution over labellings, such as `LinearChain`.

  A NamedTuple or a frozen dataclass that is a pytree. Its other fields differ from type to type; the functions
  of `kd_jax.structured` dispatch on the type. A type of another package needs a mask and inherits nothing.
  """

  @property
  def mask(self) -> ArrayLike | None:
    """[..., n], nonzero for tokens; None if all are."""


AnyStructure = TypeVar("AnyStructure", bound=Structure)
"""One type of structure, if what a function returns has the type of its argument."""
