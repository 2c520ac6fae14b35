"""The overview: what its panels show is what was put in, for any Telemetry, and nothing is written over anything."""

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from support.telemetry import Telemetry, load
from support.telemetry.calendars import calendar_features
from support.telemetry.judging.overview import overview
from support.telemetry.schema import LABEL_COLUMNS


def made(columns, *, n_resources=1, step=3600, start="2025-01-01", resources=None, labels=()):
    n_time = len(next(iter(columns.values()))) // n_resources
    times = pd.date_range(start, periods=n_time, freq=f"{step}s", tz="UTC")
    ids = [f"vm-{number:02d}" for number in range(n_resources)]
    index = pd.MultiIndex.from_product([ids, times], names=["resource_id", "timestamp"])
    return Telemetry(
        pd.DataFrame(columns, index=index),
        float(step),
        resources=pd.DataFrame()
        if resources is None
        else pd.DataFrame(resources, index=pd.Index(ids, name="resource_id")),
        labels=pd.DataFrame([(*row,) for row in labels], columns=list(LABEL_COLUMNS)),
    )


def panel(figure, number):
    return next(axes for axes in figure.axes if axes.get_title("left").startswith(f"{number}  "))


def widths(axes):
    return {label.get_text(): bar.get_width() for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=False)}


def rng(seed=1):
    return np.random.default_rng(seed)


CASES = {
    "one metric": lambda: load("synthetic:web", seed=1, days=10, step_seconds=300.0),
    "servers by day": lambda: load("synthetic:banking", seed=1, n_resources=8),
    "cloud with anomalies": lambda: load("synthetic:cloud", seed=1, days=7, n_resources=20, step_seconds=3600.0, anomaly_rate=0.02),
    "queue": lambda: load("synthetic:events", seed=1, days=3),
    "two rows": lambda: made({"cpu_utilization": [1.0, 2.0]}),
    "one row": lambda: made({"cpu_utilization": [1.0]}),
    "constant": lambda: made({"requests": np.full(100, 7.0)}),
    "zero": lambda: made({"requests": np.zeros(100)}),
    "negative": lambda: made({"value": rng().normal(size=2000)}),
    "two seconds": lambda: made({"latency_ms": rng().exponential(size=500)}, step=1),
    "holes": lambda: made({"cpu_utilization": np.where(rng().random(999) < 0.3, np.nan, 50 * rng().random(999))}, n_resources=3),
    "lead without data": lambda: made({"cpu_utilization": np.full(60, np.nan), "memory_utilization": 9 * rng().random(60)}),
    "weekend only": lambda: made({"requests": rng().random(30)}, start="2025-06-07"),
    "years": lambda: made({"cpu_utilization": 90 * rng().random(9000)}, n_resources=2, step=86_400, start="2010-01-01"),
    "many kinds": lambda: made(
        {"cpu_utilization": 90 * rng().random(400)}, n_resources=20, resources={"workload": [f"kind-{n % 13}" for n in range(20)]}
    ),
    "unknown label": lambda: made(
        {"requests": rng().random(50)},
        labels=[("vm-00", pd.Timestamp("2025-01-01", tz="UTC"), pd.Timestamp("2025-01-02", tz="UTC"), "odd", "elsewhere")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_any_telemetry_gives_seven_panels_that_do_not_overlap(case):
    before, open_before = dict(plt.rcParams), plt.get_fignums()
    figure = overview(CASES[case]())
    assert dict(plt.rcParams) == before and plt.get_fignums() == open_before
    figure.canvas.draw()
    assert [axes.get_title("left")[:3] for axes in figure.axes] == [f"{number}  " for number in range(1, 8)]
    right = figure.bbox.x1
    boxes = {axes.get_title("left")[0]: axes._left_title.get_window_extent() for axes in figure.axes}
    assert all(box.x1 <= right for box in boxes.values())
    for left, beside in ("23", "45", "67"):
        assert boxes[left].x1 < boxes[beside].x0
    for axes in figure.axes:
        assert axes.has_data() or axes.texts, axes.get_title("left")


def test_kinds_of_day_are_recovered_whatever_the_growth():
    times = pd.date_range("2024-01-01", "2025-12-31", freq="D", tz="UTC")
    days = calendar_features(times)
    level = np.where(days["is_weekend"], 50.0, np.where(days["is_eoq"], 130.0, 100.0))
    level[days["is_holiday"]] = 40.0
    requests = level * 1.02 ** (np.arange(len(times)) / 30)
    axes = panel(overview(made({"requests": requests}, step=86_400, start="2024-01-01")), 4)
    working, weekend, holiday, quarter_end = (bar.get_width() for bar in axes.patches)
    assert working == pytest.approx(100)
    assert weekend == pytest.approx(50, rel=0.01)
    assert holiday == pytest.approx(40, rel=0.01)
    assert quarter_end == pytest.approx(130, rel=0.04)  # a growing load is higher at a quarter's end
    counts = [int(text.get_text().split("(")[1].split()[0]) for text in axes.texts]
    assert sum(counts) == len(times)


def test_the_week_is_the_mean_of_a_naive_loop():
    telemetry = made({"cpu_utilization": 100 * rng().random(2 * 24 * 15)}, n_resources=2)
    shown = np.asarray(panel(overview(telemetry), 3).images[0].get_array())
    cells = {}
    for (_, time), value in telemetry.observations["cpu_utilization"].items():
        cells.setdefault((time.dayofweek, time.hour), []).append(value)
    for (day, hour), values in cells.items():
        assert shown[day, hour] == pytest.approx(np.mean(values))


def test_correlations_are_shown_beside_their_targets():
    z = rng().normal(size=(4000, 2))
    cpu, memory = 50 + 8 * z[:, 0], 50 + 8 * (0.6 * z[:, 0] + 0.8 * z[:, 1])
    telemetry = made({"cpu_utilization": cpu, "memory_utilization": memory})
    names = ["cpu_utilization", "memory_utilization"]
    target = pd.DataFrame([[1.0, 0.6], [0.6, 1.0]], names, names)
    axes = panel(overview(telemetry, target_correlation=target), 5)
    assert float(axes.images[0].get_array()[0, 1]) == pytest.approx(np.corrcoef(cpu, memory)[0, 1])
    assert {text.get_text() for text in axes.texts if text.get_text()} == {
        f"{np.corrcoef(cpu, memory)[0, 1]:.2f}\n(0.60)"
    }


def test_cost_is_added_up_by_group_and_day():
    cost = np.repeat([1.0, 2.0, 4.0], 48)
    telemetry = made(
        {"requests": 9 * rng().random(144), "cost_usd": cost, "waste_percentage": np.full(144, 25.0)},
        n_resources=3,
        resources={"workload": ["cache", "web_app", "web_app"]},
    )
    axes = panel(overview(telemetry), 6)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cache (1)", "web_app (2)"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([24, 144, 6, 36])
    assert "168 USD per day" in axes.get_title("left")


def test_what_is_idle_when_sized_for_the_peak_is_the_area_above_the_curve():
    telemetry = made({"requests": np.tile(np.arange(1.0, 101.0), 2) * np.repeat([1.0, 5.0], 100)}, n_resources=2)
    assert panel(overview(telemetry), 6).get_title("left") == "6  Sized for the peak, 50 % is idle"  # 1 - 0.505


def test_groups_are_compared_by_their_quantiles():
    cpu = np.concatenate([np.linspace(0, 20, 101), np.linspace(60, 100, 101)])
    figure = overview(made({"cpu_utilization": cpu}, n_resources=2, resources={"workload": ["cache", "hpc"]}))
    axes = panel(figure, 2)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cache (1)", "hpc (1)"]
    wide, narrow = (np.array(lines.get_segments())[:, :, 0] for lines in axes.collections)
    np.testing.assert_allclose(wide, [[1, 19], [62, 98]])
    np.testing.assert_allclose(narrow, [[5, 15], [70, 90]])


def test_known_anomalies_are_marked_where_they_are():
    times = pd.date_range("2025-01-01", periods=300, freq="1h", tz="UTC")
    labels = [
        ("vm-01", times[100], times[110], "cpu_spike", "cpu_utilization,memory_utilization"),
        ("vm-01", times[150], times[150], "idle_waste", "cpu_utilization"),
        ("vm-00", times[20], times[30], "memory_leak", "memory_utilization"),
        ("vm-00", times[40], times[50], "memory_leak", "memory_utilization"),
        ("vm-00", times[60], times[70], "memory_leak", "memory_utilization"),
    ]
    columns = {name: 90 * rng().random(600) for name in ("cpu_utilization", "memory_utilization")}
    axes = panel(overview(made(columns, n_resources=2, labels=labels)), 7)
    assert axes.get_title("left") == "7  Known anomalies (5), here vm-01"
    found = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches)
    half = pd.Timedelta(minutes=30)
    for (low, high), (_, start, end, *_) in zip(found, labels[:2], strict=True):
        np.testing.assert_allclose([low, high], mdates.date2num([start - half, end + half]), rtol=0, atol=1e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cpu spike", "idle waste"]
