from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from support.bayes.autocorrelation import effective_weight, seasonal_basis
from support.bayes.rows import unit_rows
from support.bayes.statistics import cell_statistics
from support.errors import SchemaError, TooShortError
from support.telemetry import Telemetry, load


@pytest.fixture(scope="module")
def fleet() -> Telemetry:
    return load("synthetic:industries", seed=5, days=6, n_resources=9, step_seconds=3600)


def _frame(values: dict[str, list[float]], resources: pd.DataFrame | None = None, step: str = "1h") -> Telemetry:
    parts = [
        pd.DataFrame(
            {"cpu_utilization": v},
            index=pd.MultiIndex.from_product(
                [[name], pd.date_range("2026-03-02", periods=len(v), freq=step, tz="UTC")],
                names=["resource_id", "timestamp"],
            ),
        )
        for name, v in values.items()
    ]
    table = pd.DataFrame(index=list(values)) if resources is None else resources
    return Telemetry(pd.concat(parts), pd.Timedelta(step).total_seconds(), resources=table)


def _cut(fleet: Telemetry, keep: np.ndarray) -> Telemetry:
    return replace(fleet, observations=fleet.observations[keep])


@pytest.mark.parametrize("week", [True, False])
def test_sums_are_those_of_a_loop_over_rows(fleet, week):
    stats = cell_statistics(fleet, week=week, weight="none")
    n, s1, s2 = (np.zeros((9, 168 if week else 24)) for _ in range(3))
    for (resource, time), percent in fleet.observations["cpu_utilization"].items():
        at = stats.resources.index(resource), time.hour + (24 * time.dayofweek if week else 0)
        n[at], s1[at], s2[at] = n[at] + 1, s1[at] + np.log(percent / 100), s2[at] + np.log(1 - percent / 100)
    for ours, naive in ((stats.n, n), (stats.s1, s1), (stats.s2, s2)):
        np.testing.assert_allclose(ours, naive, rtol=1e-12, atol=1e-12)
    for r, name in enumerate(stats.resources):
        row = fleet.resources.loc[name]
        assert stats.industries[stats.industry_of[r]] == row["industry"]
        assert stats.applications[stats.application_of[r]] == row["application"]


def test_batches_add_up_to_the_whole(fleet):
    time = fleet.observations.index.get_level_values("timestamp")
    early = np.asarray(time < pd.Timestamp("2026-03-05", tz="UTC"))
    whole, first, second = (cell_statistics(t) for t in (fleet, _cut(fleet, early), _cut(fleet, ~early)))
    for both in (first + second, second + first):
        np.testing.assert_allclose(both.count, whole.count)
        np.testing.assert_allclose(both.n / both.weight[:, None], whole.n / whole.weight[:, None], atol=1e-9)
        np.testing.assert_allclose(both.weight, whole.weight, rtol=1e-9)  # the pair across the seam is counted
        assert both.resources == whole.resources


def test_new_resources_join_with_new_groups(fleet):
    names = fleet.observations.index.get_level_values("resource_id")
    some = np.asarray(names < "host-00004")
    both, whole = cell_statistics(_cut(fleet, some)) + cell_statistics(_cut(fleet, ~some)), cell_statistics(fleet)
    assert (both.resources, both.industries, both.applications) == (
        whole.resources,
        whole.industries,
        whole.applications,
    )
    for name in ("industry_of", "application_of", "n", "s1", "weight"):
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), rtol=1e-9)


def test_addition_refuses_what_does_not_fit(fleet):
    stats = cell_statistics(fleet)
    with pytest.raises(SchemaError, match="n_hour_cell"):
        stats + cell_statistics(fleet, week=False)
    with pytest.raises(SchemaError, match="weighted"):
        stats + cell_statistics(fleet, weight="none")
    with pytest.raises(SchemaError, match="two capacities"):
        stats + cell_statistics(fleet, capacity=120.0)
    with pytest.raises(SchemaError, match="two applications"):
        stats + replace(stats, application_of=np.roll(stats.application_of, 1))


def test_edges_and_gaps_are_counted_not_nudged():
    t = _frame({"a": [0.0, 0.005, 50.0, 99.995, 100.0, 104.0, np.nan, 30.0], "b": [0.0] * 8, "c": [20.0] * 8})
    stats = cell_statistics(t, group_columns=())
    assert (stats.industries, stats.applications) == (("all",), ("all",))
    np.testing.assert_array_equal(stats.zeros, [2, 8, 0])
    np.testing.assert_array_equal(stats.saturated, [3, 0, 0])
    np.testing.assert_array_equal(stats.missing, [1, 0, 0])
    np.testing.assert_allclose(stats.count, [2, 0, 8])
    table = stats.summary().set_index("what")["count"]
    assert table["resources with one and the same value throughout"] == 1
    assert table["resources without a value strictly inside, known by their group only"] == 1


def test_bad_input_is_said_in_a_sentence(fleet):
    for options, error, words in (
        ({"group_columns": ("sector",)}, SchemaError, "no column"),
        ({"group_columns": ("a", "b", "c")}, SchemaError, "3 columns"),
        ({"metric": "requests"}, SchemaError, "no metric"),
        ({"metric": "disk_iops"}, SchemaError, "capacity="),
        ({"capacity": pd.Series({"host-00000": 100.0})}, SchemaError, "host-00001"),
        ({"weight": "some"}, SchemaError, "effective"),
    ):
        with pytest.raises(error, match=words):
            cell_statistics(fleet, **options)
    with pytest.raises(TooShortError, match="strictly between"):
        cell_statistics(_frame({"a": [0.0, 0.0, 100.0, 5.0]}), group_columns=())
    with pytest.raises(SchemaError, match="1 resource without a tier, first b"):
        table = pd.DataFrame({"tier": ["x", None]}, index=["a", "b"])
        cell_statistics(_frame({"a": [1.0] * 9, "b": [2.0] * 9}, table), group_columns=("tier",))


def test_capacity_maps_any_metric(fleet):
    capacity = fleet.observations["disk_iops"].groupby(level=0).max() * 2
    rows = unit_rows(fleet, metric="disk_iops", capacity=capacity)
    np.testing.assert_allclose([rows.y[rows.resource == r].max() for r in range(9)], 0.5)


def _ar1(r: float, n: int, rng: np.random.Generator) -> np.ndarray:
    z = rng.standard_normal(n)
    for t in range(1, n):
        z[t] = r * z[t - 1] + np.sqrt(1 - r**2) * z[t]
    return z


@pytest.mark.parametrize(("r", "step"), [(0.0, "1h"), (0.6, "1h"), (0.9, "5min")])
def test_autocorrelation_is_recovered_under_a_season(r, step):
    rng = np.random.default_rng(7)
    values = {}
    for name in "abcdefgh":
        time = pd.date_range("2026-03-02", periods=1500, freq=step, tz="UTC")
        u = -1 + 0.8 * np.sin(2 * np.pi * time.hour.to_numpy() / 24) + 0.5 * _ar1(r, 1500, rng)
        values[name] = list(100 / (1 + np.exp(-u)))
    found = cell_statistics(_frame(values, step=step), group_columns=()).autocorrelation
    assert abs(found.mean() - r) < 0.03


def test_effective_weight_is_the_variance_of_a_mean():
    for r, n in ((0.0, 7), (0.5, 1), (0.5, 30), (0.95, 24)):
        covariance = r ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        assert effective_weight(np.array([r]), np.array([float(n)]))[0] == pytest.approx(1 / (covariance.sum() / n))


def test_basis_is_orthogonal_with_mean_zero():
    for cells in (24, 168):
        basis = seasonal_basis(cells)
        np.testing.assert_allclose(basis.T @ basis, cells / 2 * np.eye(basis.shape[1]), atol=1e-9)
        np.testing.assert_allclose(basis.sum(axis=0), 0, atol=1e-9)
    with pytest.raises(SchemaError, match="12 hour cells"):
        seasonal_basis(12)


def test_one_value_throughout_counts_as_rounded_and_others_as_they_are():
    """The mean of log y and log(1 - y) over the hundredth of a percent that was rounded to the value, by a grid."""
    rng = np.random.default_rng(4)
    ordinary = (30 + 5 * rng.standard_normal(48)).tolist()
    blip = [37.0] * 47 + [37.005]  # within the same hundredth of a percent as the others
    stats = cell_statistics(
        _frame({"a": ordinary, "b": [37.0] * 48, "c": blip, "d": [37.0] + [np.nan] * 47}),
        group_columns=(),
        weight="none",
    )
    width = 1e-4
    within = 0.37 + width * (np.linspace(0, 1, 20001)[:-1] + 0.5 / 20000 - 0.5)
    for row in (1, 2):
        values = np.array([37.0] * 48 if row == 1 else blip) / 100
        for sums, of, slope in ((stats.s1, np.log, 1 / 0.37), (stats.s2, np.log1p, -1 / 0.63)):
            sign = 1 if of is np.log else -1
            plain = of(sign * values).sum()
            lost = of(sign * 0.37) - of(sign * within).mean()  # by rounding alone, of one value
            spread = values.var() / (width**2 / 12)
            assert plain - sums[row].sum() == pytest.approx(48 * lost * (1 - spread), rel=1e-3), (row, slope)
    np.testing.assert_allclose(stats.s1[0].sum(), np.log(np.array(ordinary) / 100).sum(), rtol=1e-14)
    np.testing.assert_allclose(stats.s1[3].sum(), np.log(0.37), rtol=1e-14)
    assert stats.summary().set_index("what")["count"]["resources with one and the same value throughout"] == 2


def _days(fleet: Telemetry, first: int, last: int) -> Telemetry:
    day = (fleet.observations.index.get_level_values("timestamp") - pd.Timestamp("2026-03-02", tz="UTC")).days
    return _cut(fleet, np.asarray((day >= first) & (day <= last)))


def test_rows_given_twice_are_refused():
    rng = np.random.default_rng(6)
    whole = _frame({"a": (30 + 5 * rng.standard_normal(240)).tolist(), "b": (50 + rng.standard_normal(240)).tolist()})
    early = cell_statistics(_days(whole, 0, 5), group_columns=())
    for first, last, since in ((0, 5, "02 00:00"), (5, 7, "07 00:00"), (2, 3, "04 00:00"), (0, 9, "02 00:00")):
        again = cell_statistics(_days(whole, first, last), group_columns=())
        for pair in ((early, again), (again, early)):
            with pytest.raises(SchemaError, match=f"a has rows of the same times in both.*2026-03-{since}"):
                pair[0] + pair[1]
    joined = early + cell_statistics(_days(whole, 6, 9), group_columns=())
    with pytest.raises(SchemaError, match="same times"):
        joined + early


def test_gaps_filled_later_and_rows_in_between_are_not_given_twice():
    rng = np.random.default_rng(7)
    whole = _frame({"a": (30 + 5 * rng.standard_normal(240)).tolist()})
    day = (whole.observations.index.get_level_values("timestamp") - pd.Timestamp("2026-03-02", tz="UTC")).days
    holed = replace(whole, observations=whole.observations.mask(np.asarray(day == 4)[:, None]))
    both = cell_statistics(holed, group_columns=()) + cell_statistics(_days(whole, 4, 4), group_columns=())
    assert both.count.tolist() == pytest.approx([240])
    shifted = whole.observations.copy()
    shifted.index = pd.MultiIndex.from_arrays(
        [shifted.index.get_level_values(0), shifted.index.get_level_values(1) + pd.Timedelta("30min")],
        names=shifted.index.names,
    )
    between = cell_statistics(replace(whole, observations=shifted), group_columns=())
    assert (cell_statistics(whole, group_columns=()) + between).count.tolist() == pytest.approx([480])
