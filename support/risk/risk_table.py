"""The one page in two files: the risk table, one row a resource, and the recommendation with all that it rests on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.forecast import Forecast
from support.risk.exceedance import cvar, exceedance, value_at_risk
from support.risk.runway import runway
from support.risk.vulnerability import event_of
from support.writing import write_together

__all__ = ["checked_capacity", "decision_record", "risk_table", "write_risk"]

RECENT_DAYS = 28  # "now"
TAIL_LEVEL = 0.95  # of the expected shortfall of the peak
FINDINGS = ("under", "over", "idle", "optimised", "insufficient_data")
# What section 8.3 of the book's specification asks of a recommendation.
RECORD_KEYS = (
    "id", "created_at", "resource_id", "business_unit", "criticality", "finding", "binding_dimension", "current", "proposed",
    "horizon_days", "lead_time_days", "statistic", "target_utilization", "safety_margin", "headroom_implied",
    "breach_probability", "expected_unserved", "monthly_cost", "savings", "confidence", "reason", "alternatives",
    "rollback_condition", "model_version", "data_window", "assumptions", "expires_at",
)  # fmt: skip


def checked_capacity(
    capacity: float, demand: pd.Series, *, target_utilization: float = 1.0, of: str = "recent demand"
) -> float:
    """Usable capacity, capacity x target_utilization, if it can be planned with, in the unit of `demand` (n_time,).

    demand: what is held against it now; of: its name in a message. Raises SchemaError if the capacity is missing (0) or
    not finite, the target is no share, or what is usable is not above the median of demand: then the breach is there
    already, or the units differ.

    Example:
        >>> checked_capacity(80.0, pd.Series([40.0, 50.0, 60.0]), target_utilization=0.75)
        60.0
    """
    if not (isinstance(capacity, int | float) and math.isfinite(capacity) and capacity > 0):
        raise SchemaError(
            f"capacity is {'not given' if capacity == 0 else repr(capacity)}. Give it in the unit of the demand, above 0, such as "
            f"capacity=80 for 80 %; the highest of {of} is {_number(float(demand.max()))}."
        )
    if not 0 < target_utilization <= 1:
        raise SchemaError(f"target_utilization is {target_utilization:g}. Give a share above 0 to 1, such as 0.7.")
    usable, now = float(capacity * target_utilization), float(demand.median())
    if usable <= now:
        part = f" x {100 * target_utilization:.4g} % = {_number(usable)}" if target_utilization < 1 else ""
        raise SchemaError(
            f"capacity {_number(capacity)}{part} is not above present use: the median of {of} is {_number(now)}. "
            "Give it in the unit of the demand; if it is, capacity is exhausted now."
        )
    return usable


def _number(value: float) -> str:
    """In full from a thousand on, else four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def risk_table(
    forecast: Forecast, recent: Mapping[str, pd.Series], capacities: Sequence[float] | np.ndarray, *, lead_time_days: float,
    loss_per_hour: Sequence[float] | np.ndarray | None = None, accepted_risk: float = 0.05, country: str = "",
) -> pd.DataFrame:  # fmt: skip
    """One row a series of the forecast, sorted by expected loss, ties by the peak ahead; all in the unit of demand.

    recent: past demand by series; its newest four weeks are "now". capacities (n_series,): usable. loss_per_hour
    (n_series,): of an hour in breach, 1 if left out. binding: it runs out first, by expected loss, among those whose
    probability of running out within the lead time exceeds `accepted_risk`. worst_day: the day on which a breach is
    most probable, with its kind. Runways beyond the horizon are infinite. Raises SchemaError.
    """
    n = len(forecast.series)
    loss = np.ones(n) if loss_per_hour is None else np.asarray(loss_per_hour, dtype=float)
    limits = np.asarray(capacities, dtype=float)
    if len(limits) != n or len(loss) != n:
        raise SchemaError(f"risk table: {len(limits)} capacities and {len(loss)} losses for {n} series.")
    rows = [
        _row(forecast, s, recent[name], float(limits[s]), float(loss[s]), lead_time_days, country)
        for s, name in enumerate(forecast.series)
    ]
    table = pd.DataFrame(rows).sort_values(
        ["expected_loss", "p_any", "peak_p95", "resource"], ascending=[False, False, False, True]
    )
    table["red"] = table["p_within_lead_time"] > accepted_risk
    table["binding"] = table["red"] & (table["red"].cumsum() == 1)
    return table.reset_index(drop=True)


def _row(
    forecast: Forecast, series: int, past: pd.Series, capacity: float, loss: float, lead_time_days: float, country: str
) -> dict[str, Any]:
    found, left = exceedance(forecast, capacity, series=series), runway(forecast, capacity, series=series)
    now = past.loc[past.index > past.index[-1] - pd.Timedelta(days=RECENT_DAYS)]
    by_day = pd.Series(found.p_point, forecast.timestamps).groupby(forecast.timestamps.floor("D")).max()
    day = by_day.idxmax()
    event = event_of(pd.DatetimeIndex([day]), country=country)[0]
    return {
        "resource": forecast.series[series],
        "unit": forecast.unit,
        "capacity": capacity,
        "now_p50": float(now.quantile(0.5)),
        "now_p95": float(now.quantile(0.95)),
        **{f"peak_p{100 * q:.0f}": value_at_risk(found.peaks, q) for q in (0.5, 0.95, 0.99)},
        "p_any": found.p_any,
        "breach_hours": float(found.breach_hours.mean()),
        "unserved_unit_hours": float(found.unserved.mean()),
        "peak_es95": cvar(found.peaks, TAIL_LEVEL),
        **{f"runway_p{100 * q:.0f}_days": left.quantile(q) for q in (0.1, 0.5, 0.9)},
        "never_crosses": left.never_frac,
        "p_within_lead_time": left.within(lead_time_days),
        "expected_loss": loss * float(found.breach_hours.mean()),
        "worst_day": f"{day:%Y-%m-%d}, {day:%A}, {event}" if by_day.max() > 0 else "none",
    }


def decision_record(**values: Any) -> dict[str, Any]:
    """A recommendation as a plain dictionary in the order of RECORD_KEYS; all of them, and no others.

    What is not known is None, never left out. Times are UTC with a zone. Raises SchemaError for a key too many or too
    few, an unknown finding, an empty reason, a breach probability outside [0, 1], or an end before the beginning.
    """
    if missing := [k for k in RECORD_KEYS if k not in values]:
        raise SchemaError(f"decision: {', '.join(missing)} missing. Give None for what is not known.")
    if unknown := sorted(set(values) - set(RECORD_KEYS)):
        raise SchemaError(f"decision: unknown {', '.join(unknown)}.")
    if values["finding"] not in FINDINGS:
        raise SchemaError(f"decision: finding {values['finding']!r} is unknown. Use one of {', '.join(FINDINGS)}.")
    if not str(values["reason"]).strip():
        raise SchemaError("decision: the reason is empty.")
    odds = values["breach_probability"]
    if not all(0 <= p <= 1 for p in (odds["before"], odds["after"], *odds["interval"])):
        raise SchemaError(f"decision: breach probabilities {odds} must lie in [0, 1].")
    if not pd.Timestamp(values["created_at"]) < pd.Timestamp(values["expires_at"]):
        raise SchemaError("decision: it expires before it is made.")
    return {key: values[key] for key in RECORD_KEYS}


def write_risk(folder: Path, table: pd.DataFrame, record: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `risk_table.csv` and `decision.json` into `folder`, both or neither: first under temporary names, then renamed.

    Infinite runways are empty in the CSV and null in the JSON. Raises BookError if the folder cannot be written.
    """
    text = {
        "risk_table.csv": table.replace([np.inf, -np.inf], np.nan).to_csv(index=False, float_format="%.6g"),
        "decision.json": json.dumps(_plain(record), indent=2, allow_nan=False) + "\n",
    }
    table_file, decision_file = write_together(folder, text, named_by="output_folder")
    return table_file, decision_file


def _plain(value: Any) -> Any:
    """JSON's own types: numbers without NumPy, infinities and NaN as null, times in ISO 8601."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
