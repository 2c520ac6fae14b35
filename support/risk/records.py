"""The recommendation record: what to change, what it saves, what it risks, when to take it back; as JSON and as a table row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from support.errors import SourceError
from support.writing import write_together

__all__ = ["RecommendationRecord", "record_id", "records_table", "write_records"]

ID_LENGTH = 12  # hexadecimal digits


@dataclass(frozen=True)
class RecommendationRecord:
    """One recommendation, complete enough to be judged by someone who was not there.

    Times are ISO 8601 in UTC; created_at is the end of the data, so that the same data give the same record. current,
    proposed: size, count, unit_price (per hour). statistic: name, level, value (cores). headroom_implied: proposed size
    over the statistic, less 1. breach_probability: share of the horizon's intervals with demand above the size: before,
    after, interval (90 %), any_after (at least one in the horizon). expected_unserved: core hours in the horizon.
    monthly_cost: before, after; savings: p10, p50, p90 (a month, shortage costs taken off) and realised_if. confidence:
    probability that the breach limit holds. Money in `currency`.
    """

    id: str
    created_at: str
    resource_id: str
    business_unit: str
    criticality: str
    finding: str
    binding_dimension: str
    current: dict[str, object]
    proposed: dict[str, object]
    horizon_days: int
    lead_time_hours: float
    statistic: dict[str, object]
    target_utilization: float | None
    safety_margin: float | None
    headroom_implied: float | None
    breach_probability: dict[str, object]
    expected_unserved: float
    monthly_cost: dict[str, float]
    savings: dict[str, object]
    confidence: float
    reason: str
    alternatives: list[dict[str, object]]
    rollback_condition: str
    model_version: str
    data_window: dict[str, object]
    assumptions: list[str]
    expires_at: str
    currency: str = "USD"

    def to_json(self) -> str:
        """The record as one JSON object; numbers that are not finite become null."""
        return json.dumps(_plain(asdict(self)), ensure_ascii=False, allow_nan=False)


def record_id(*parts: object) -> str:
    """A short identifier that is the same for the same parts.

    Example:
        >>> record_id("vm-1", "2026-01-01") == record_id("vm-1", "2026-01-01")
        True
    """
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:ID_LENGTH]


def records_table(records: Sequence[RecommendationRecord]) -> pd.DataFrame:
    """One row a record, index `id`: nested fields as `current.size`, lists joined by semicolons."""
    rows = []
    for record in records:
        row: dict[str, object] = {}
        for name, value in asdict(record).items():
            if isinstance(value, dict):
                row |= {f"{name}.{key}": _joined(inner) for key, inner in value.items()}
            else:
                row[name] = _joined(value)
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.set_index("id") if rows else frame


def write_records(records: Sequence[RecommendationRecord], path: str | Path) -> None:
    """Write the records as `.json` (an array) or `.csv` (one row each), under a temporary name first.

    Raises SourceError for another ending, BookError if the folder cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".json", ".csv"):
        raise SourceError(f"{path}: records are written as .json or .csv. Choose one of these endings.")
    text = (
        "[" + ",\n ".join(r.to_json() for r in records) + "]\n"
        if path.suffix == ".json"
        else records_table(records).to_csv()
    )
    write_together(path.parent, {path.name: text}, named_by="output_folder")


def _joined(value: object) -> object:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _plain(value: object) -> object:
    """Dictionaries, lists, text and finite numbers only; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)  # type: ignore[arg-type]
    return number if number - number == 0 else None
