"""The population stability index: its symmetry, its law under no change, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from support.errors import SchemaError
from support.risk.drift import psi, psi_band, psi_critical

SHARES = st.lists(st.floats(0.01, 1), min_size=2, max_size=8).map(lambda v: np.array(v) / sum(v))


@given(SHARES, st.randoms(use_true_random=False))
def test_it_is_the_symmetric_relative_entropy_and_zero_for_equal_shares(share, random):
    other = np.array(random.sample(share.tolist(), len(share)))
    assert psi(share, other) == pytest.approx(entropy(share, other) + entropy(other, share), abs=1e-12)
    assert psi(share, other) == pytest.approx(psi(other, share), abs=1e-12)
    assert psi(share, share) == 0 and psi(share, other) >= 0


def test_under_no_change_one_sample_in_twenty_passes_the_critical_value():
    rng, n, m, bins = np.random.default_rng(0), 800, 400, 8
    counts = (rng.multinomial(n, np.full(bins, 1 / bins), 4000), rng.multinomial(m, np.full(bins, 1 / bins), 4000))
    found = np.array([psi(a / n, b / m) for a, b in zip(*counts, strict=True)])
    assert (found > psi_critical(bins, n, m)).mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 4000))


@pytest.mark.parametrize(
    ("value", "band"), [(0.0999, "stable"), (0.1, "moderate"), (0.25, "moderate"), (0.2501, "major")]
)
def test_bands(value, band):
    assert psi_band(value) == band


@pytest.mark.parametrize(
    ("expected", "actual", "told"),
    [([0.5, 0.5], [1.0], "same bins"), ([0.5, 0.4], [0.5, 0.5], "sum to 0.9"), ([0.5, 0.5], [1.0, 0.0], "actual bin 1 is empty")],
)  # fmt: skip
def test_refusals(expected, actual, told):
    with pytest.raises(SchemaError, match=told):
        psi(expected, actual)
    with pytest.raises(SchemaError, match="give 2 bins"):
        psi_critical(1, 10, 10)
