"""Bills under FOCUS column names: read, checked, written; commitments amortised so that no cost is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.risk.prices import CURRENCY
from support.telemetry.reading.files import read_table
from support.telemetry.schema import Telemetry

__all__ = ["FOCUS_COLUMNS", "check_focus", "focus_bill", "read_focus", "with_commitment", "write_focus"]

# Columns of the FOCUS specification 1.0 to 1.2 that the book reads and writes, with their kind. True: must be there.
FOCUS_COLUMNS: dict[str, tuple[str, bool]] = {
    "BillingCurrency": ("text", True),
    "ChargePeriodStart": ("time", True),
    "ChargePeriodEnd": ("time", True),
    "ChargeCategory": ("text", True),
    "ServiceName": ("text", True),
    "ProviderName": ("text", False),
    "RegionId": ("text", False),
    "ResourceId": ("text", False),
    "ListCost": ("number", True),
    "ContractedCost": ("number", True),
    "BilledCost": ("number", True),
    "EffectiveCost": ("number", True),
    "PricingQuantity": ("number", False),
    "PricingUnit": ("text", False),
    "ConsumedQuantity": ("number", False),
    "ConsumedUnit": ("text", False),
    "CommitmentDiscountId": ("text", False),
    "CommitmentDiscountStatus": ("text", False),
    "ChargeClass": ("text", False),
    "Tags": ("tags", False),
}
COSTS = ("ListCost", "ContractedCost", "BilledCost", "EffectiveCost")
QUANTITIES = ("PricingQuantity", "ConsumedQuantity")
CATEGORIES = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
STATUSES = ("Used", "Unused")
SERVICES = {
    "compute": "Virtual machines",
    "database": "Managed databases",
    "storage": "Block storage",
    "network": "Load balancing",
}
COMMITMENT = "commitment"
ROUNDING = 1e-12  # share of a commitment below which its unused part is rounding


def check_focus(frame: pd.DataFrame, source: str = "frame") -> pd.DataFrame:
    """`frame` itself, if it obeys the rules of FOCUS 1.0 to 1.2 that costs rest on.

    Raises SchemaError, with the row and the mend, for a missing column or value, an unknown category or status, a
    period that does not end after it starts, more than one currency, a negative cost or quantity of Usage or Purchase
    that is no correction, a commitment status without a commitment, and the purchase of a commitment with an
    EffectiveCost (it would count twice).

    Example:
        >>> check_focus(pd.DataFrame({"BilledCost": [1.0]}))
        Traceback (most recent call last):
        support.errors.SchemaError: frame: no column BillingCurrency. FOCUS asks for it; rename yours or export it.
    """
    if frame.empty:
        raise SchemaError(f"{source}: no charges. Give at least one row.")
    for name, (_, needed) in FOCUS_COLUMNS.items():
        if needed and name not in frame:
            raise SchemaError(f"{source}: no column {name}. FOCUS asks for it; rename yours or export it.")
        if needed and frame[name].isna().any():
            raise SchemaError(
                f"{source}: {name} is empty in {_row(frame, frame[name].isna())}. FOCUS allows no nulls there."
            )
    currencies = sorted(frame["BillingCurrency"].astype(str).unique())
    if len(currencies) > 1:
        raise SchemaError(f"{source}: charges in {' and '.join(currencies)}. Read one currency at a time, or convert.")
    empty = pd.Series(np.nan, index=frame.index)
    category, status = frame["ChargeCategory"], frame.get("CommitmentDiscountStatus", empty)
    committed = frame.get("CommitmentDiscountId", empty).notna()
    plain = category.isin(("Usage", "Purchase")) & (frame.get("ChargeClass", empty) != "Correction")
    rules = [
        (~category.isin(CATEGORIES), f"ChargeCategory must be one of {', '.join(CATEGORIES)}"),
        (status.notna() & ~status.isin(STATUSES), "CommitmentDiscountStatus must be Used, Unused or empty"),
        (
            status.notna() & ~committed,
            "a CommitmentDiscountStatus needs the CommitmentDiscountId it belongs to",
        ),
        (
            ~(frame["ChargePeriodEnd"] > frame["ChargePeriodStart"]),
            "ChargePeriodEnd is exclusive and must be after ChargePeriodStart",
        ),
        (
            (category == "Purchase") & committed & (frame["EffectiveCost"] != 0),
            "a Purchase of a commitment has EffectiveCost 0, its cost is amortised",
        ),
    ]
    rules += [
        (plain & (frame[name] < 0), f"{name} is negative; mark refunds as Credit, or as ChargeClass Correction")
        for name in (*COSTS, *QUANTITIES)
        if name in frame
    ]
    for broken, rule in rules:
        if broken.any():
            raise SchemaError(f"{source}: {rule} ({_row(frame, broken)}).")
    return frame


def _row(frame: pd.DataFrame, broken: pd.Series) -> str:
    """How many rows break a rule, and the first of them."""
    return f"{int(broken.sum())} of {len(frame)} rows, first row {int(np.flatnonzero(broken.to_numpy())[0]) + 1}"


def read_focus(path: str) -> pd.DataFrame:
    """Charges of a FOCUS file (CSV, CSV.gz or Parquet): its FOCUS_COLUMNS, typed and checked, one row per charge.

    Times are UTC, costs and quantities floats, `Tags` a dictionary per row. Other columns are left out.
    Raises SourceError for a file that cannot be read and SchemaError as `check_focus` does.
    """
    table = read_table(path)
    kept = table[[name for name in FOCUS_COLUMNS if name in table]].copy()
    for name in kept:
        kind = FOCUS_COLUMNS[name][0]
        try:
            if kind == "number":
                kept[name] = pd.to_numeric(kept[name]).astype(float)
            elif kind == "time":
                kept[name] = pd.to_datetime(kept[name], utc=True, format="ISO8601")
            elif kind == "tags":
                kept[name] = kept[name].map(_tags)
            else:
                kept[name] = kept[name].astype(object).where(kept[name].notna() & (kept[name] != ""), None)
        except (ValueError, TypeError) as error:
            raise SchemaError(f"{path}: {name} does not hold a {kind} in every row ({error}).") from None
    return check_focus(kept, path)


def _tags(cell: Any) -> dict[str, Any]:
    """The tags of one row: JSON text, a mapping, or nothing."""
    if isinstance(cell, Mapping):
        return dict(cell)
    if isinstance(cell, list | np.ndarray):  # a map of Parquet comes as pairs
        return dict(cell)
    if not isinstance(cell, str) or not cell.strip():
        return {}
    tags = json.loads(cell)
    if not isinstance(tags, dict):
        raise ValueError(f"Tags must be a JSON object, not {cell[:40]!r}")
    return tags


def write_focus(frame: pd.DataFrame, path: str | Path) -> None:
    """Write charges as a FOCUS CSV: ISO 8601 times in UTC, `Tags` as JSON. Raises SchemaError as `check_focus` does."""
    check_focus(frame, str(path))
    out = frame[[name for name in FOCUS_COLUMNS if name in frame]].copy()
    for name in out:
        if FOCUS_COLUMNS[name][0] == "time":
            out[name] = pd.to_datetime(out[name], utc=True).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        elif FOCUS_COLUMNS[name][0] == "tags":
            out[name] = out[name].map(lambda tags: json.dumps(tags, sort_keys=True))
    out.to_csv(path, index=False)


def focus_bill(
    telemetry: Telemetry, *, period: str = "D", tags: tuple[str, ...] = ("team", "environment")
) -> pd.DataFrame:
    """The bill of an estate: one FOCUS Usage charge per resource and period, at list price.

    ConsumedQuantity and PricingQuantity are hours. period: a pandas offset such as "h" or "D". tags: columns of the
    resources that become Tags where they are known. Raises SchemaError for telemetry without `cost_usd`.

    Example:
        >>> from support.telemetry import load
        >>> bill = focus_bill(load("synthetic:cloud", seed=1, days=2, n_resources=3))
        >>> len(bill), bill["ChargeCategory"].unique().tolist()
        (6, ['Usage'])
    """
    if "cost_usd" not in telemetry.observations:
        raise SchemaError(f"{telemetry.source}: no cost_usd, so there is no bill; there are {telemetry.metrics}.")
    cost = telemetry.observations["cost_usd"].reset_index()
    start = cost["timestamp"].dt.floor(period)
    each = cost.groupby(["resource_id", start])["cost_usd"].agg(["sum", "count"]).reset_index()
    about = telemetry.resources.reindex(each["resource_id"]).reset_index(drop=True)
    hours = each["count"] * telemetry.step_seconds / 3600
    known = [name for name in tags if name in about]
    frame = pd.DataFrame(
        {
            "BillingCurrency": CURRENCY,
            "ChargePeriodStart": each["timestamp"],
            "ChargePeriodEnd": each["timestamp"] + pd.tseries.frequencies.to_offset(period),
            "ChargeCategory": "Usage",
            "ServiceName": about["resource_type"].map(SERVICES) if "resource_type" in about else "Compute",
            "ProviderName": about.get("provider"),
            "RegionId": about.get("region"),
            "ResourceId": each["resource_id"],
            **dict.fromkeys(COSTS, each["sum"]),
            "PricingQuantity": hours,
            "PricingUnit": "Hours",
            "ConsumedQuantity": hours,
            "ConsumedUnit": "Hours",
            "CommitmentDiscountId": None,
            "CommitmentDiscountStatus": None,
            "Tags": [{n: row[n] for n in known if isinstance(row[n], str)} for _, row in about.iterrows()],
        }
    )
    return check_focus(frame, telemetry.source)


def with_commitment(bill: pd.DataFrame, committed: float, discount: float) -> pd.DataFrame:
    """`bill` under a commitment to `committed` of list cost per period, bought at (1 - discount) of it, used or not.

    Per period the commitment covers the Usage charges in proportion to their ListCost: what it covers becomes a row
    `Used` with BilledCost 0 and the amortised EffectiveCost, the rest stays on demand; what nobody uses is a row
    `Unused`; the fee is a Purchase with EffectiveCost 0. So BilledCost and EffectiveCost have the same sum in every
    period. Raises SchemaError for a discount outside [0, 1), a negative commitment, or a bill that has one already.
    """
    if not 0 <= discount < 1 or not committed >= 0:
        raise SchemaError(f"committed {committed} and discount {discount}: at least 0, and in [0, 1).")
    if bill.get("CommitmentDiscountId", pd.Series(dtype=object)).notna().any():
        raise SchemaError("this bill has a commitment already. Start from the on-demand bill.")
    usage = bill["ChargeCategory"] == "Usage"
    total = bill["ListCost"].where(usage, 0.0).groupby(bill["ChargePeriodStart"]).transform("sum")
    frac = (committed / total.where(total > 0, np.inf)).clip(upper=1.0).where(usage, 0.0)
    scaled = [*COSTS, *(q for q in QUANTITIES if q in bill)]
    rest = bill.assign(**{name: bill[name] * (1 - frac) for name in scaled})
    hit = frac > 0
    used = bill[hit].assign(**{n: (bill[n] * frac)[hit] for n in scaled}, CommitmentDiscountId=COMMITMENT)
    used = used.assign(CommitmentDiscountStatus="Used", BilledCost=0.0, EffectiveCost=used["ListCost"] * (1 - discount))
    periods = bill.assign(_used=bill["ListCost"] * frac).groupby("ChargePeriodStart", as_index=False)
    fee = periods.agg({"BillingCurrency": "first", "ChargePeriodEnd": "first", "_used": "sum"})
    fee = fee.assign(
        ServiceName="Commitment", CommitmentDiscountId=COMMITMENT, Tags=[{} for _ in range(len(fee))],
        **dict.fromkeys(COSTS, 0.0),
    )  # fmt: skip
    price = 1 - discount
    paid = fee.assign(ChargeCategory="Purchase", BilledCost=committed * price, CommitmentDiscountStatus=None)
    unused = fee.assign(
        ChargeCategory="Usage",
        CommitmentDiscountStatus="Unused",
        EffectiveCost=((committed - fee["_used"]) * price).clip(lower=0.0),
    )
    unused = unused[unused["EffectiveCost"] > ROUNDING * committed]
    parts = [rest[~usage | (frac < 1)], used, unused, paid[paid["BilledCost"] > 0]]
    columns = [n for n in FOCUS_COLUMNS if n in bill or n.startswith("CommitmentDiscount")]
    made = pd.concat([p for p in parts if len(p)], ignore_index=True).reindex(columns=columns)
    return check_focus(made.sort_values("ChargePeriodStart", kind="stable", ignore_index=True), "bill")
