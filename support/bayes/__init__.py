"""Bayesian models of capacity: hierarchical utilisation, correlations. Double precision is switched on at import."""

from __future__ import annotations

import jax

jax.config.update("jax_enable_x64", True)  # in 32 bits this posterior fails: the sums of n lgamma lose their digits
