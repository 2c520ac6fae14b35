"""Nets in Flax NNX, trained with Optax: direct quantiles of many steps, for a panel of series at once."""
