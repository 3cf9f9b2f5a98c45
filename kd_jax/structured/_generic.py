"""The functions of `kd_jax.structured`: each takes a structure first and dispatches on its type.

With score(y) the sum of the scores of a labelling's parts, a structure is the distribution

    P(y) = exp(score(y)) / Z,    Z = sum_y exp(score(y))

over its labellings y. A masked token is as if it were not there, wherever it stands: it moves no number,
gets no gradient, and has marginals 0 and label 0. A sentence without tokens has one labelling, of score 0.

All functions work in float32 whatever the precision of the scores, under jit, vmap and grad. They raise
ValueError for integer scores, shapes that do not fit and (unless traced) NaN at a token, and for a
structure that does not have the function. The bodies stand in the structures' own files.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from kd_jax.structured._declaration import KINDS, as_pair
from kd_jax.structured._protocols import Structure as Structure
from kd_jax.types import Array, ArrayLike


class Parse(NamedTuple):
  """A labelled tree, as parsers predict it.

  Attributes:
    heads: [..., n] int32: 0 is the root, j the j-th token.
    relations: [..., n] int32.
  """

  heads: Int[ArrayLike, "*batch n"]
  relations: Int[ArrayLike, "*batch n"]


Labels = Any
"""Tags [..., n], BIOES tags for spans, heads for trees, a `LabelledTree` for parsers; of each type its own."""


def _no_function(name: str, structure: Any) -> ValueError:
  kind = type(structure).__name__
  if kind not in KINDS:
    return ValueError(f"{kind} is no structure: known are {', '.join(KINDS)}")
  return ValueError(
    f"{name} is not defined for {kind}: see the table of functions in docs/structured.md"
  )


@functools.singledispatch
def log_partition(
  structure: Structure, *, algorithm: Literal["scan", "associative"] = "scan"
) -> Float[Array, "*batch"]:
  r"""Computes log Z, the log of the summed weight of all labellings.

  .. math:: \log Z = \log \sum_y \exp(score(y))

  Its gradient is the marginals, its second derivative the covariance of the parts.

  Args:
    structure: any but a parser's `DependencyScores`.
    algorithm: of a `LinearChain` alone: "scan", one position after the other, O(n L²); or "associative",
      O(log n) steps of O(n L³) work in all, for long sentences on accelerators.

  Returns:
    [...] float32; 0 for a sentence without tokens.

  Raises:
    ValueError: for shapes that do not fit, integer scores, NaN, or another algorithm.

  References:
    Trees: Koo et al. (2007), the matrix-tree theorem; Eisner (1996) for projective ones. Spans: Structural KD,
    arXiv 2010.05010, case 4.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import DependencyTrees, LinearChain, SpanScores, log_partition
    >>> structures = (
    ...   LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2))),
    ...   SpanScores(jnp.zeros((2, 2, 1))),
    ...   DependencyTrees(jnp.zeros((4, 5))),
    ...   DependencyTrees(jnp.zeros((4, 5)), projective=True),
    ... )
    >>> [round(float(jnp.exp(log_partition(s)))) for s in structures]
    [8, 5, 64, 30]
  """
  raise _no_function("log_partition", structure)


@functools.singledispatch
def log_prob(structure: Structure, labels: Labels) -> Float[Array, "*batch"]:
  r"""Computes the log-probability of a labelling.

  .. math:: \log P(y) = score(y) - \log Z

  Args:
    structure: any.
    labels: tags [..., n] of a chain, of independent tags or (BIOES) of spans; tags that are part of no
      well-formed span count as O. Heads [..., n] of `DependencyTrees`: a tree of those summed over, which
      is not checked. A `Tree` or `Parse` of `DependencyScores` and `ParsingTags`, whose tokens are
      independent: left out are tokens whose relation is negative, unseen in training, or whose head and
      relation no tag names. At masked positions anything.

  Returns:
    [...] float32, in nats.

  Raises:
    ValueError: as `log_partition`, and for labels of another shape or type, or (unless traced) out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import LinearChain, SpanScores, log_prob
    >>> chain = LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
    >>> round(float(jnp.exp(log_prob(chain, jnp.array([0, 1, 1])))), 4)
    0.125
    >>> round(float(jnp.exp(log_prob(SpanScores(jnp.zeros((2, 2, 1))), jnp.array([2, 4])))), 3)
    0.2
  """
  raise _no_function("log_prob", structure)


@functools.singledispatch
def marginals(structure: Structure) -> Any:
  r"""Computes the probabilities of the parts of a structure: the gradient of log Z.

  .. math:: P(part) = \sum_{y \ni part} P(y)

  Args:
    structure: any but `DependencyScores` (see `head_marginals`).

  Returns:
    Float32, 0 at masked positions:

    - `LinearChain`: P(tag) [..., n, L] and P(tag, next tag) [..., n-1, L, L], entry i from the token before to
      the one at position i + 1;
    - `MaxEnt` and `ParsingTags`: [..., n, L];
    - `SpanScores`: [..., n, n, R], 0 for start > end;
    - `DependencyTrees`: [..., n, n+1]; each token's row adds up to 1.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import DependencyTrees, LinearChain, SpanScores, marginals
    >>> tags, pairs = marginals(LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2))))
    >>> tags.tolist()[0], pairs.tolist()[0]
    ([0.5, 0.5], [[0.25, 0.25], [0.25, 0.25]])
    >>> (5 * marginals(SpanScores(jnp.zeros((2, 2, 1)))))[..., 0].round(3).tolist()
    [[2.0, 1.0], [0.0, 2.0]]
    >>> marginals(DependencyTrees(jnp.zeros((2, 3)))).tolist()
    [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
  """
  raise _no_function("marginals", structure)


@functools.singledispatch
def argmax(structure: Structure) -> Labels:
  r"""Finds the likeliest labelling.

  .. math:: \arg\max_y score(y)

  Of equally good tags a chain takes the lowest. If every tree contains excluded arcs, the result is a tree
  with as few of them as possible. No gradient flows through it.

  Args:
    structure: any. `DependencyScores` and `ParsingTags` give the best *tree* with one child of the root, by
      refined head marginals if the parser has them, and the best relation on each of its arcs. If no label
      names an arc of that tree, the relation is that of the best label.

  Returns:
    int32 tags [..., n], BIOES tags for spans, or heads [..., n]; a `Parse` for parsers. 0 at masked positions.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import DependencyTrees, LinearChain, SpanScores, argmax
    >>> argmax(LinearChain(jnp.array([[1., 0.], [0., 1.]]), jnp.eye(2) * 3)).tolist()
    [0, 0]
    >>> argmax(SpanScores(jnp.array([[[-1.0], [2.0]], [[0.0], [1.0]]]))).tolist()
    [2, 4]
    >>> argmax(DependencyTrees(jnp.array([[5.0, 0.0, 4.0], [5.0, 1.0, 0.0]]))).tolist()
    [2, 0]
  """
  raise _no_function("argmax", structure)


def top_k(structure: Structure, k: int) -> tuple[Labels, Float[Array, "*batch k"]]:
  """Finds the k likeliest labellings, all different, the likeliest first.

  Args:
    structure: any but `ParsingTags`. Of `DependencyScores`, the k best trees with one child of the root.
    k: how many, a Python integer of at least 1.

  Returns:
    labels with an axis of k before the positions, [..., k, n], and their scores [..., k]: log-probabilities up
    to log Z. If there are fewer than k labellings, the rest has labels 0 and scores NEG_INF.

  Raises:
    ValueError: for k below 1, or as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import LinearChain, top_k
    >>> tags, scores = top_k(LinearChain(jnp.array([[1., 0.], [0., 3.]]), jnp.zeros((2, 2))), 2)
    >>> tags.tolist(), scores.tolist()
    ([[0, 1], [1, 1]], [4.0, 3.0])
  """
  if isinstance(k, bool) or not isinstance(k, int | np.integer):
    raise ValueError(f"k must be a Python integer, got {k!r}")
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")
  k = int(k)
  return top_k_of(structure, k)


@functools.singledispatch
def top_k_of(structure: Structure, k: int) -> tuple[Labels, Array]:
  """`top_k` by type, k checked."""
  del k
  raise _no_function("top_k", structure)


@functools.singledispatch
def sample(structure: Structure, key: jax.Array) -> Labels:
  r"""Draws a labelling for each sentence, independently and exactly: :math:`y \sim P`.

  Args:
    structure: any but a parser's scores.
    key: a key of `jax.random`.

  Returns:
    int32 tags or heads [..., n], as of `argmax`; 0 at masked positions. If every tree contains excluded arcs, a
    tree that contains some. No gradient flows through it.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from kd_jax.structured import LinearChain, sample
    >>> certain = LinearChain(jnp.array([[0., 99.], [99., 0.]]), jnp.zeros((2, 2)))
    >>> sample(certain, jax.random.key(0)).tolist()
    [1, 0]
  """
  del key
  raise _no_function("sample", structure)


@functools.singledispatch
def entropy(structure: Structure) -> Float[Array, "*batch"]:
  r"""Computes the entropy of the distribution over labellings, in nats.

  .. math:: H(P) = -\sum_y P(y) \log P(y) = \log Z - E[score(y)]

  Args:
    structure: any but `DependencyScores`.

  Returns:
    [...] float32, at least 0. Chains and spans sum the entropies of the steps in which a labelling is drawn, so
    that nothing cancels if log Z is large.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import DependencyTrees, SpanScores, entropy
    >>> round(float(jnp.exp(entropy(SpanScores(jnp.zeros((2, 2, 1)))))), 3)
    5.0
    >>> round(float(jnp.exp(entropy(DependencyTrees(jnp.zeros((3, 4)))))), 3)
    9.0
  """
  raise _no_function("entropy", structure)


def cross_entropy(p: Structure, q: Structure) -> Float[Array, "*batch"]:
  r"""Computes the cross-entropy of a distribution q under a distribution p, exactly over all labellings.

  .. math:: H(p, q) = -\sum_y p(y) \log q(y) = \log Z_q - E_p[score_q(y)]

  Its gradient for q's scores is q's marginals less p's. Both are differentiated: stop the gradient of a teacher
  that does not learn. If q excludes what p allows, the value is near 1e30 times its probability.

  Args:
    p: any structure but `DependencyScores`.
    q: a structure of the same type and flags, over the same sentences and labels. A mask may be given once.

  Returns:
    [...] float32.

  Raises:
    ValueError: for structures of different types, shapes or masks, or as `log_partition`.

  References:
    Wang et al., Structural Knowledge Distillation, ACL 2021, arXiv 2010.05010.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import LinearChain, cross_entropy
    >>> chain = LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
    >>> round(float(cross_entropy(chain, chain)), 4)
    2.0794
  """
  return cross_entropy_of(*as_pair(p, q))


@functools.singledispatch
def cross_entropy_of(p: Structure, q: Structure) -> Array:
  """`cross_entropy` by type, of two of one type with one mask."""
  del q
  raise _no_function("cross_entropy", p)


def kl_divergence(p: Structure, q: Structure) -> Float[Array, "*batch"]:
  r"""Computes KL(p || q) over all labellings: never negative, 0 at equality.

  .. math:: KL(p \| q) = \sum_y p(y) \, (\log p(y) - \log q(y)) = H(p, q) - H(p)

  It is summed without the cancellation of that difference: over the steps of a chain and of spans, along
  the way from p to q for trees that are near each other.

  Args:
    p: any structure but `DependencyScores`.
    q: a structure of the same type and flags, over the same sentences and labels. A mask may be given once.

  Returns:
    [...] float32. Gradients flow into both.

  Raises:
    ValueError: as `cross_entropy`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import LinearChain, kl_divergence
    >>> chain = LinearChain(jnp.ones((3, 2)), jnp.eye(2))
    >>> float(kl_divergence(chain, chain))
    0.0
  """
  return kl_divergence_of(*as_pair(p, q))


@functools.singledispatch
def kl_divergence_of(p: Structure, q: Structure) -> Array:
  """`kl_divergence` by type, of two of one type with one mask."""
  del q
  raise _no_function("kl_divergence", p)


@functools.singledispatch
def tag_marginals(structure: Structure) -> Float[Array, "*batch n L"]:
  r"""Computes the probability of each tag at each token, under the whole structure.

  Spans give BIOES tags, numbered 0 for O and then, for each label r in turn, S 1+4r, B 2+4r, I 3+4r, E 4+4r:

  .. math:: P(I_r, m) = \sum_{u < m < v} P(u, v, r) \quad P(B_r, m) = \sum_{v > m} P(m, v, r) \quad ...

  Args:
    structure: `LinearChain`, `MaxEnt`, `ParsingTags` or `SpanScores`.

  Returns:
    [..., n, L], or [..., n, 4R+1] for spans; rows sum to 1, and are 0 at masked positions.

  Raises:
    ValueError: as `log_partition`, and for structures without tags.

  References:
    Structural KD, arXiv 2010.05010, cases 2a and 4.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import SpanScores, tag_marginals
    >>> (5 * tag_marginals(SpanScores(jnp.zeros((2, 2, 1))))).round(3).tolist()
    [[2.0, 2.0, 1.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0, 1.0]]
  """
  raise _no_function("tag_marginals", structure)


@functools.singledispatch
def head_marginals(structure: Structure) -> Float[Array, "*batch n n+1"]:
  r"""Computes each token's distribution over heads.

  .. math:: P(head(i) = h) = softmax_h \, arc(i, h)

  Args:
    structure: `DependencyScores`: each token on its own, as parsers are trained, by refined marginals if there
      are any; no tree is asked for. Or `DependencyTrees`: the marginals over trees.

  Returns:
    [..., n, n+1]; each token's row sums to 1, and 0 stands at masked positions and self-loops.

  Raises:
    ValueError: as `log_partition`, and for structures without heads.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import DependencyScores, head_marginals
    >>> scores = DependencyScores(jnp.zeros((2, 3)), jnp.zeros((2, 3, 4)), jnp.array([1, 0]))
    >>> head_marginals(scores).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
  """
  raise _no_function("head_marginals", structure)


# What losses and tests need of a structure, besides.


@functools.singledispatch
def score(structure: Structure, labels: Labels) -> Array:
  """The sum of the scores [...] of a labelling's parts."""
  del labels
  raise _no_function("score", structure)


@functools.singledispatch
def token_scores(structure: Structure) -> Array:
  """Scores [..., n, L] of each token's tags from what stands at that token alone."""
  raise _no_function("token_scores", structure)


@functools.singledispatch
def log_tag_marginals(structure: Structure) -> Array:
  """The logs of `tag_marginals`: a tag that is all but excluded keeps its gradient; any number if masked."""
  raise _no_function("log_tag_marginals", structure)
