"""The event queue: against a loop over its recursion, and against what is described of the data it imitates."""

import numpy as np
import pandas as pd
import pytest

from support.telemetry.generation.events import event_queue

DESCRIBED_95_QUANTILE, DESCRIBED_MEAN_QUEUE = 10_134, 5_763  # events per two minutes; events


def made(seed, n_steps=107_144):
    return event_queue(
        pd.date_range("2025-03-01", periods=n_steps, freq="120s", tz="UTC"), rng=np.random.default_rng(seed)
    )


def test_the_queue_is_what_a_loop_makes_of_the_arrivals():
    metrics = made(3, n_steps=5_000)
    capacity, waiting = np.floor(7 * 120_000 / 73.6), 0.0
    for arrived, processed, queue in zip(
        metrics["requests"], metrics["processed"], metrics["queue_length"], strict=True
    ):
        done = min(waiting + arrived, capacity)
        waiting = waiting + arrived - done
        assert (processed, queue) == (done, waiting)
    assert max(metrics["queue_length"]) > 0


def test_it_is_near_the_description_on_average_over_seeds_and_one_seed_is_not():
    several = [made(seed) for seed in range(12)]
    assert np.mean([np.quantile(m["requests"], 0.95) for m in several]) == pytest.approx(
        DESCRIBED_95_QUANTILE, rel=0.03
    )
    queues = np.array([m["queue_length"].mean() for m in several]) / DESCRIBED_MEAN_QUEUE
    assert queues.mean() == pytest.approx(1, abs=0.25)
    assert queues.min() < 0.8 and queues.max() > 1.1
