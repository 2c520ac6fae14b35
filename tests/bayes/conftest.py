"""One small fleet and its three fits, shared by the tests of the utilisation model."""

from __future__ import annotations

import jax
import pytest

from support.bayes.utilization import UtilizationModel
from support.telemetry import load


@pytest.fixture(scope="session")
def fleet_telemetry():
    return load("synthetic:industries", seed=2, days=8, n_resources=24, step_seconds=3600)


@pytest.fixture(scope="session")
def fits(fleet_telemetry):
    return {
        pooling: UtilizationModel(pooling=pooling, week=False, n_warmup=300, n_draws=600).fit(
            fleet_telemetry, key=jax.random.key(1)
        )
        for pooling in ("partial", "none", "complete")
    }
