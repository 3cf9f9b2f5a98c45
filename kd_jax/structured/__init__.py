"""Exact inference in structures (chains, spans, dependency trees): scores in, arrays out."""

from kd_jax.structured import (
  dependency as dependency,
  linear_chain as linear_chain,
  maxent as maxent,
  parsing_as_tagging as parsing_as_tagging,
  spans as spans,
)
