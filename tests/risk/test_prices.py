"""Price tables: against the two lists they are made of, with sources, and refusals that name the mend."""

import pandas as pd
import pytest

from support.errors import SchemaError
from support.risk.prices import check_prices, price_table, price_terms
from support.telemetry.generation.cloud import instances
from support.telemetry.taxonomy import regions


def test_on_demand_is_the_list_times_the_region():
    for place in regions().itertuples():
        table = price_table(place.provider, place.region).set_index("instance_type")
        for row in instances().itertuples():
            listed = table.loc[getattr(row, place.provider.lower())]
            assert listed["price"] == pytest.approx(row.price_usd * place.price_factor)
            assert (listed["unit"], listed["currency"]) == (row.per, "USD")


def test_every_price_says_where_it_is_from():
    terms = price_terms()
    assert terms["source"].str.len().min() > 20 and terms["as_of"].notna().all()
    assert set(terms["provider"]) == {"AWS", "Azure", "GCP"}
    assert terms.groupby("provider")["purchase"].unique().map(set).eq({"on_demand", "committed", "spot"}).all()
    told = terms["source"].str.contains("http|\\.com|\\.ai|API|assumption|this book")
    assert told.all(), terms[~told]


def test_longer_and_riskier_is_cheaper_everywhere():
    for provider, terms in price_terms().groupby("provider"):
        for _, plan in terms[terms["purchase"] == "committed"].groupby("plan"):
            by_term = plan.sort_values("term_years")["price_frac"]
            assert by_term.is_monotonic_decreasing and by_term.between(0, 1, inclusive="neither").all(), provider
        spot = terms[terms["purchase"] == "spot"].iloc[0]
        assert spot["interruptions_per_month"] > 0 and spot["price_frac"] < 1


def test_commitments_are_shares_of_the_same_table_and_storage_has_none():
    listed = price_table("Azure", "eastus").set_index("instance_type")["price"]
    bought = price_table("Azure", "eastus", purchase="committed", term_years=3).set_index("instance_type")
    assert ((bought["price"] / listed[bought.index]).round(9) == 0.38).all()
    assert "Premium SSD v2" not in bought.index and bought["as_of"].eq("2023-09").all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("IBM",), "Use one of AWS, Azure, GCP"),
        (("AWS", "mars-1"), "Use one of us-east-1"),
        (("AWS", None, "committed", 2), "There are on_demand"),
    ],
)
def test_what_is_not_sold_is_named(given, told):
    provider, region, purchase, years = [*given, None, "on_demand", 0][:4] if len(given) < 4 else given
    with pytest.raises(SchemaError, match=told):
        price_table(provider, region, purchase=purchase or "on_demand", term_years=years or 0)


def table(**changes):
    made = pd.DataFrame(
        {
            "instance_type": ["a", "b"],
            "vcpu": [1, 2],
            "memory_gib": [1, 2],
            "price": [0.1, 0.2],
            "unit": "hour",
            "currency": "USD",
        }
    )
    return made.assign(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"currency": ["USD", "EUR"]}, "EUR and USD. Convert"),
        ({"price": [0.1, -1.0]}, "price of b is -1.0"),
        ({"price": [float("nan"), 1.0]}, "price of a"),
        ({"instance_type": ["a", "a"]}, "a is listed twice"),
    ],
)
def test_a_table_that_money_cannot_be_counted_with(changes, told):
    with pytest.raises(SchemaError, match=told):
        check_prices(table(**changes))


def test_a_good_table_passes_unchanged():
    pd.testing.assert_frame_equal(check_prices(table()), table())
