"""Zero-shot forecasters: others' behind one adapter, the book's own, and what it learned from."""

from support.forecasting.foundation.models import FoundationEnsemble, ZeroShot, load_foundation, own_card, own_zero_shot
from support.forecasting.foundation.tails import complete_levels
from support.forecasting.foundation.zoo import licences

__all__ = [
    "FoundationEnsemble",
    "ZeroShot",
    "complete_levels",
    "licences",
    "load_foundation",
    "own_card",
    "own_zero_shot",
]
