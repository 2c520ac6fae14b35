"""The risk table against its parts, the record's keys, and files that are whole or not there."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from support.errors import BookError, SchemaError
from support.forecast import Forecast
from support.risk.exceedance import cvar, exceedance
from support.risk.risk_table import RECORD_KEYS, checked_capacity, decision_record, risk_table, write_risk
from support.risk.runway import runway

ISSUED = pd.Timestamp("2025-12-19", tz="UTC")
RECENT = pd.Series(np.linspace(1, 100, 100), pd.date_range(end=ISSUED, periods=100, freq="1D"))


def forecast():
    rng = np.random.default_rng(0)
    paths = rng.normal([[[50.0]], [[60.0]], [[20.0]]], 5.0, (3, 400, 30))
    return Forecast.from_paths(
        paths, issued_at=ISSUED, step_seconds=86_400, unit="percent", model="given", series=("web", "db", "idle")
    )


def table(**options):
    recent = dict.fromkeys(("web", "db", "idle"), RECENT)
    given = {"lead_time_days": 10.0, "loss_per_hour": [1.0, 3.0, 1.0]} | options
    return risk_table(forecast(), recent, [60.0, 70.0, 90.0], **given)


def test_rows_are_what_the_parts_say_and_sorted_by_loss():
    made = table()
    assert made["resource"].tolist() == ["db", "web", "idle"]
    row = made.set_index("resource").loc["web"]
    found, left = exceedance(forecast(), 60.0), runway(forecast(), 60.0)
    assert row["p_any"] == found.p_any and row["breach_hours"] == found.breach_hours.mean()
    assert row["peak_es95"] == cvar(found.peaks, 0.95) and row["peak_p50"] <= row["peak_p95"] <= row["peak_p99"]
    assert row["p_within_lead_time"] == left.within(10) and row["runway_p10_days"] == left.quantile(0.1)
    assert (
        row["now_p50"] == pytest.approx(RECENT.iloc[-28:].quantile(0.5)) and row["expected_loss"] == row["breach_hours"]
    )
    assert made.loc[0, "expected_loss"] == pytest.approx(3 * made.loc[0, "breach_hours"])


def test_one_red_row_binds_and_the_worst_day_has_a_name():
    made = table()
    assert made["red"].tolist() == [True, True, False] and made["binding"].tolist() == [True, False, False]
    assert (
        made.loc[2, "worst_day"] == "none" and made.loc[2, "p_any"] == 0 and math.isinf(made.loc[2, "runway_p50_days"])
    )
    day, weekday, kind = made.loc[0, "worst_day"].split(", ")
    assert pd.Timestamp(day).day_name() == weekday and kind in ("working day", "weekend", "quarter end", "holiday")
    assert not table(accepted_risk=1.0)["red"].any()
    with pytest.raises(SchemaError, match="losses"):
        table(loss_per_hour=[1.0])
    with pytest.raises(SchemaError, match="Lengthen"):
        table(lead_time_days=31)


@pytest.mark.parametrize("capacity", [0, 0.0, -1.0, math.nan, math.inf, None, "80"])
def test_a_missing_capacity_is_told(capacity):
    with pytest.raises(SchemaError, match="capacity=80"):
        checked_capacity(capacity, RECENT)


def test_a_capacity_below_present_use_is_told():
    with pytest.raises(SchemaError, match="present use"):
        checked_capacity(50.0, RECENT)
    assert checked_capacity(80, RECENT) == 80.0


def record(**changes):
    values = dict.fromkeys(RECORD_KEYS)
    values |= {
        "finding": "under", "reason": "It runs out.", "created_at": ISSUED, "expires_at": ISSUED + pd.Timedelta(days=7),
        "breach_probability": {"before": 0.3, "after": 0.01, "interval": (0.2, np.float64(0.4))},
        "savings": {"p10": np.nan, "p50": math.inf}, "current": {"count": np.int64(4)},
    }  # fmt: skip
    return values | changes


def test_the_record_has_all_keys_and_no_others():
    made = decision_record(**record())
    assert tuple(made) == RECORD_KEYS
    short = record()
    short.pop("reason")
    for bad, told in (
        (short, "reason"), (record(colour="red"), "colour"), (record(finding="bad"), "finding"), (record(reason=" "), "reason"),
        (record(expires_at=ISSUED), "expires"),
        (record(breach_probability={"before": 2, "after": 0, "interval": (0, 1)}), "probabilities"),
    ):  # fmt: skip
        with pytest.raises(SchemaError, match=told):
            decision_record(**bad)


def test_both_files_or_none(tmp_path):
    paths = write_risk(tmp_path / "out", table(), decision_record(**record()))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["decision.json", "risk_table.csv"]
    read, told = pd.read_csv(paths[0]), json.loads(paths[1].read_text())
    assert read["resource"].tolist() == ["db", "web", "idle"] and np.isnan(read.loc[2, "runway_p50_days"])
    assert told["breach_probability"]["interval"] == [0.2, 0.4] and told["savings"] == {"p10": None, "p50": None}
    assert told["current"]["count"] == 4 and told["created_at"].startswith("2025-12-19T00:00:00+00:00")
    (tmp_path / "file").write_text("")
    with pytest.raises(BookError, match="output_folder"):
        write_risk(tmp_path / "file", table(), record())
    (tmp_path / "old" / "decision.json").mkdir(parents=True)  # the second rename fails
    with pytest.raises(BookError):
        write_risk(tmp_path / "old", table(), record())
    assert not [p for p in (tmp_path / "old").iterdir() if p.name.startswith(".")]


def test_rows_of_equal_loss_are_sorted_by_their_peak():
    recent = dict.fromkeys(("web", "db", "idle"), RECENT)
    made = risk_table(forecast(), recent, [1000.0] * 3, lead_time_days=10.0)
    assert not made["p_any"].any() and made["resource"].tolist() == ["db", "web", "idle"]


def test_usable_capacity_is_what_is_held_against_demand():
    assert checked_capacity(100.0, RECENT, target_utilization=0.7) == pytest.approx(70.0)
    with pytest.raises(SchemaError, match="100 x 50 % = 50 is not above .* median of daily peaks is 50.5"):
        checked_capacity(100.0, RECENT, target_utilization=0.5, of="daily peaks")
    with pytest.raises(SchemaError, match="target_utilization is 70"):
        checked_capacity(100.0, RECENT, target_utilization=70)
