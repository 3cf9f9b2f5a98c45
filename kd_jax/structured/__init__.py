"""Exact inference in structures: chains, independent tags, spans, dependency trees and parsers.

    import kd_jax
    chain = kd_jax.structured.LinearChain(unary, transition, mask)
    kd_jax.structured.log_partition(chain)

Structures are pytrees of scores; each function takes one first and works under jit, vmap and grad.
"""

from kd_jax.structured import _chain_posteriors as _chain_posteriors, _linear_chain as _linear_chain
from kd_jax.structured._chain import (
  LinearChain as LinearChain,
  constrain as constrain,
  with_boundaries as with_boundaries,
)
from kd_jax.structured._declaration import scaled as scaled
from kd_jax.structured._dependency_scores import DependencyScores as DependencyScores
from kd_jax.structured._dependency_trees import DependencyTrees as DependencyTrees
from kd_jax.structured._generic import (
  Parse as Parse,
  Structure as Structure,
  argmax as argmax,
  cross_entropy as cross_entropy,
  entropy as entropy,
  head_marginals as head_marginals,
  kl_divergence as kl_divergence,
  log_partition as log_partition,
  log_prob as log_prob,
  marginals as marginals,
  sample as sample,
  tag_marginals as tag_marginals,
  top_k as top_k,
)
from kd_jax.structured._maxent import MaxEnt as MaxEnt
from kd_jax.structured._mean_field import mean_field_marginals as mean_field_marginals
from kd_jax.structured._parsing_tags import ParsingTags as ParsingTags
from kd_jax.structured._spans import SpanScores as SpanScores, spans_of_tags as spans_of_tags
from kd_jax.types import LabelledTree as LabelledTree
