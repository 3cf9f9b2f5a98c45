"""Exact inference in structures (chains, spans, dependency trees): scores in, arrays out.

One module for each structure; `structure` decodes and scores any of them by its type, `span_paths` has the k
best segmentations.
"""

from kd_jax.structured import (
  dependency as dependency,
  linear_chain as linear_chain,
  maxent as maxent,
  parsing_as_tagging as parsing_as_tagging,
  span_paths as span_paths,
  spans as spans,
  structure as structure,
)
from kd_jax.structured.dependency import (
  DependencyScores as DependencyScores,
  ParsingTags as ParsingTags,
)
from kd_jax.structured.linear_chain import LinearChain as LinearChain
from kd_jax.structured.maxent import MaxEnt as MaxEnt
from kd_jax.structured.spans import SpanScores as SpanScores
