"""Price tables as data: on demand, committed and spot at three providers, each price with its date and source."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from support.errors import SchemaError
from support.telemetry.generation.cloud import HOURS_PER_MONTH, instances
from support.telemetry.taxonomy import regions

__all__ = ["HOURS_PER_MONTH", "PRICE_COLUMNS", "check_prices", "price_table", "price_terms"]

PRICE_COLUMNS = ("instance_type", "vcpu", "memory_gib", "price", "unit", "currency")
CURRENCY = "USD"  # of instances.csv
_TERM_COLUMNS = ["provider", "purchase", "plan", "term_years", "interruptions_per_month", "as_of"]


@cache
def price_terms() -> pd.DataFrame:
    """What each way to buy costs, as a share of on demand: one row per provider, purchase, plan and term.

    Columns: provider; purchase (on_demand, committed, spot); plan; term_years; price_frac (of the on-demand price);
    interruptions_per_month (expected, per instance); as_of (date of the source); source. Read from prices.csv.

    Example:
        >>> terms = price_terms().query("provider == 'GCP' and plan == 'flexible' and term_years == 1")
        >>> terms["price_frac"].tolist()
        [0.72]
    """
    return pd.read_csv(Path(__file__).with_name("prices.csv"), dtype={"as_of": str}).fillna({"plan": ""})


def price_table(
    provider: str,
    region: str | None = None,
    *,
    purchase: str = "on_demand",
    term_years: int = 0,
    plan: str | None = None,
) -> pd.DataFrame:
    """Prices of a provider's instance types in a region under one way to buy, one row per type.

    Columns: PRICE_COLUMNS (price per `unit`, hour or GiB-month, in `currency`), provider, region, resource_type, gpus,
    purchase, plan, term_years, interruptions_per_month, as_of and source. The list price is that of
    `support.telemetry`'s instances and regions; only the share of it is from prices.csv. Storage and network are sold
    on demand only. region: the provider's first if none is given. plan: the first of that term if none is given.
    Raises SchemaError naming what there is for an unknown provider, region, purchase, term or plan.

    Example:
        >>> table = price_table("GCP", purchase="committed", term_years=1).set_index("instance_type")
        >>> round(float(table.loc["n2-standard-2", "price"]), 6)  # 0.096 USD, 0.95 of it here, 28 % less
        0.065664
    """
    places = regions()[regions()["provider"] == provider]
    if places.empty:
        raise SchemaError(
            f"provider {provider!r} is not known. Use one of {', '.join(regions()['provider'].unique())}."
        )
    place = places if region is None else places[places["region"] == region]
    if place.empty:
        raise SchemaError(f"{provider} has no region {region!r} here. Use one of {', '.join(places['region'])}.")
    terms = price_terms()[price_terms()["provider"] == provider]
    row = terms[(terms["purchase"] == purchase) & (terms["term_years"] == term_years)]
    row = row if plan is None else row[row["plan"] == plan]
    if row.empty:
        there = "; ".join(f"{t.purchase} {t.plan} {t.term_years} y".replace("  ", " ") for t in terms.itertuples())
        raise SchemaError(
            f"{provider} has no {purchase} {plan or ''} for {term_years} years here. There are {there}.".replace(
                "  ", " "
            )
        )
    listed = instances() if purchase == "on_demand" else instances()[instances()["vcpu"].notna()]
    factor = float(place["price_factor"].iloc[0]) * float(row["price_frac"].iloc[0])
    table = listed.assign(
        instance_type=listed[provider.lower()],
        price=listed["price_usd"] * factor,
        unit=listed["per"],
        currency=CURRENCY,
        region=place["region"].iloc[0],
        source=listed["source"] if purchase == "on_demand" else row["source"].iloc[0],
        **{name: row[name].iloc[0] for name in _TERM_COLUMNS},
    )
    first = ["provider", "region", "resource_type", *PRICE_COLUMNS, "gpus"]
    return table[[*first, *_TERM_COLUMNS[1:], "source"]].reset_index(drop=True)


def check_prices(prices: pd.DataFrame, source: str = "prices") -> pd.DataFrame:
    """`prices` itself, if it is a table that money can be counted with.

    Raises SchemaError for a missing column, a type listed twice, a price that is not a number of at least 0, or prices
    in more than one currency.

    Example:
        >>> check_prices(price_table("AWS").drop(columns="currency"))
        Traceback (most recent call last):
        support.errors.SchemaError: prices: no column 'currency'. Wanted: instance_type, vcpu, ...
    """
    for name in PRICE_COLUMNS:
        if name not in prices:
            raise SchemaError(f"{source}: no column {name!r}. Wanted: {', '.join(PRICE_COLUMNS)}.")
    if prices.empty:
        raise SchemaError(f"{source}: no rows. Give at least one instance type.")
    wrong = ~(pd.to_numeric(prices["price"], errors="coerce") >= 0)
    if wrong.any():
        row = prices[wrong].iloc[0]
        raise SchemaError(
            f"{source}: the price of {row['instance_type']} is {row['price']}. Give a number of at least 0."
        )
    twice = prices["instance_type"][prices.duplicated(["instance_type", "unit"])]
    if len(twice):
        raise SchemaError(f"{source}: {twice.iloc[0]} is listed twice. Keep one region and one purchase per table.")
    currencies = sorted(prices["currency"].astype(str).unique())
    if len(currencies) > 1:
        raise SchemaError(f"{source}: prices in {' and '.join(currencies)}. Convert them to one currency first.")
    return prices
