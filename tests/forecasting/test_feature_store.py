"""The feature store: what goes in comes out, as of a time, once, and of one plan."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError, SourceError
from support.forecasting.feature_store import read_features, store_features
from support.forecasting.features import FeaturePlan, features

PLAN = FeaturePlan(seasons=(24,))


def panel_of(n=200, seed=0):
    index = pd.date_range("2026-01-01", periods=n, freq="1h", tz="UTC")
    rng = np.random.default_rng(seed)
    return {name: pd.Series(rng.gamma(2, 3, 300)[:n], index) for name in ("a", "b")}


def test_rows_come_back_as_they_were_in_several_writes(tmp_path):
    """What was known first and what came later are put together to what one call gives."""
    whole = features(panel_of(), PLAN, ahead=[1, 6])
    early = features(panel_of(150), PLAN, ahead=[1, 6])
    assert store_features(early, tmp_path, PLAN) == len(early)
    assert store_features(whole, tmp_path, PLAN) == len(whole) - len(early)
    assert store_features(whole, tmp_path, PLAN) == 0
    pd.testing.assert_frame_equal(read_features(tmp_path), whole.sort_index(), check_index_type=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.json", "rows-000000.parquet", "rows-000001.parquet"]


def test_nothing_after_the_time_is_given(tmp_path):
    table = features(panel_of(), PLAN, ahead=[1, 6])
    store_features(table, tmp_path, PLAN)
    time = pd.Timestamp("2026-01-05T07:00Z")
    found = read_features(tmp_path, as_of=time)
    cutoffs = found.index.get_level_values("cutoff")
    assert cutoffs.max() == time and len(found) == 2 * 2 * (4 * 24 + 8)
    # so that a model trained as of then sees what it would have seen then
    then = features({name: x[:time] for name, x in panel_of().items()}, PLAN, ahead=[1, 6])
    pd.testing.assert_frame_equal(found, then.sort_index(), check_index_type=False)


def test_another_past_or_plan_is_refused_and_leaves_the_store_as_it_was(tmp_path):
    table = features(panel_of(), PLAN)
    store_features(table, tmp_path, PLAN)
    other = panel_of()
    other["b"].iloc[100] += 1.0
    moved = features(other, PLAN)
    with pytest.raises(SchemaError, match=r"rows are stored with other values, first \('b'"):
        store_features(moved, tmp_path, PLAN)
    for plan in (FeaturePlan(seasons=(12,)), FeaturePlan(seasons=(24,), n_seasons=3)):
        with pytest.raises(SchemaError, match="another plan"):
            store_features(features(panel_of(), plan), tmp_path, plan)
    pd.testing.assert_frame_equal(read_features(tmp_path), table.sort_index(), check_index_type=False)
    with pytest.raises(SourceError, match="no features are stored"):
        read_features(tmp_path / "nowhere")
