"""Graph-based dependency parsers: scores of arcs and relations, and of pairs of arcs."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.biaffine import Biaffine, Projection
from kd_jax.structured import DependencyScores, mean_field_marginals
from kd_jax.types import Array, Outputs, Tokens


class SecondOrder(nn.Module):
  r"""Scores of two arcs together, as weighted products of three tokens' views in their roles.

  .. math:: sibling_{ihk} = \sum_w u_w c_{iw} h_{hw} c_{kw}, \quad
    grandparent_{ihg} = \sum_w v_w c_{iw} m_{hw} h_{gw}

  c views a token as a child, h as a head, m as both. The weights u and v start at zero: a parser starts as
  one of first order.

  Attributes:
    width: of the views, the rank of the scores.
    dropout: of the views.
    dtype: of the computation; parameters and scores are float32 always.

  References:
    Wang, Huang, Tu, Second-Order Semantic Dependency Parsing with End-to-End Neural Networks, 2019, arXiv
    1906.07880, equations 6 to 9; Wang and Tu, Second-Order Neural Dependency Parsing with Message Passing and
    End-to-End Training, 2020, arXiv 2010.05003.
  """

  width: int = 64
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, states: Array, heads: Array, train: bool = False) -> tuple[Array, Array]:
    """Scores tokens [..., n, D] and possible heads [..., n+1, D], the root and the tokens.

    Returns:
      (sibling [..., n, n+1, n], grandparent [..., n, n, n+1]).
    """

    def view(x: Array, name: str) -> Array:
      return Projection(self.width, self.dropout, self.dtype, name=name)(x, train)

    child, head, middle = view(states, "child"), view(heads, "head"), view(states, "middle")
    zeros = nn.initializers.zeros_init()
    sibling, grandparent = (
      self.param(name, zeros, (self.width,), jnp.float32).astype(self.dtype)
      for name in ("sibling", "grandparent")
    )
    pairs = jnp.einsum("...id,...hd->...ihd", child * sibling, head)
    siblings = jnp.einsum("...ihd,...kd->...ihk", pairs, child)
    pairs = jnp.einsum("...id,...hd->...ihd", child * grandparent, middle)
    grandparents = jnp.einsum("...ihd,...gd->...ihg", pairs, head)
    return siblings.astype(jnp.float32), grandparents.astype(jnp.float32)


class BiaffineParser(nn.Module):
  """A deep biaffine dependency parser, of first or second order: `DependencyScores`.

  The root is a learnt vector in column 0 of the heads. Of second order, `refined` is the logarithm of the
  head marginals after mean field; of first order it is None.

  Attributes:
    encoder: tokens to states [B, n, D], such as `SentenceEncoder`.
    num_relations: R.
    arc_width: of the projections for arcs.
    relation_width: of the projections for relations.
    second_order_width: of those for pairs of arcs; 0 for a parser of first order.
    iterations: of mean field.
    dropout: of the projections.
    dtype: of the last layers; parameters and scores are float32 always.

  References:
    Dozat and Manning, Deep Biaffine Attention for Neural Dependency Parsing, 2017, arXiv 1611.01734.
  """

  encoder: nn.Module
  num_relations: int
  arc_width: int = 128
  relation_width: int = 64
  second_order_width: int = 0
  iterations: int = 3
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, tokens: Tokens, train: bool = False) -> Outputs:
    """Scores arcs and relations; in training with random numbers named "dropout"."""

    def view(x: Array, width: int, name: str) -> Array:
      return Projection(width, self.dropout, self.dtype, name=name)(x, train)

    states = self.encoder(tokens, train)
    normal = nn.initializers.normal(stddev=states.shape[-1] ** -0.5)
    root = self.param("root", normal, (states.shape[-1],), jnp.float32).astype(states.dtype)
    root = jnp.broadcast_to(root, (*states.shape[:-2], 1, states.shape[-1]))
    heads = jnp.concatenate([root, states], axis=-2)
    # Without the dependent's own term, which is the same for all heads.
    arc = Biaffine(1, right_bias=False, dtype=self.dtype, name="arc")(
      view(states, self.arc_width, "arc_dependent"), view(heads, self.arc_width, "arc_head")
    )[..., 0]
    relation = Biaffine(self.num_relations, dtype=self.dtype, name="relation")(
      view(states, self.relation_width, "relation_dependent"),
      view(heads, self.relation_width, "relation_head"),
    )
    mask = jnp.asarray(tokens.mask).astype(bool)
    refined = None
    if self.second_order_width:
      pairs = SecondOrder(self.second_order_width, self.dropout, self.dtype, name="second_order")(
        states, heads, train
      )
      marginals = mean_field_marginals(arc, *pairs, mask, iterations=self.iterations)
      refined = jnp.log(jnp.maximum(marginals, jnp.finfo(jnp.float32).tiny))
    return Outputs(scores=DependencyScores(arc, relation, mask, refined))
