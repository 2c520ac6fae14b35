"""Fleet costs by hand, spot against a simulation of interruptions, and laws of the closed form."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import BookError, SchemaError
from support.risk.cost import CostModel, expected_run_hours
from support.risk.prices import HOURS_PER_MONTH, price_table

OWN = pd.DataFrame(
    {
        "instance_type": ["small", "large", "disk"],
        "vcpu": [2, 4, np.nan],
        "memory_gib": [4, 8, np.nan],
        "price": [1.5, 3.0, 0.1],
        "unit": ["hour", "hour", "GiB-month"],
        "currency": "EUR",
    }
)


def test_a_fleet_is_price_times_count_times_hours():
    model = CostModel(OWN)
    assert model.fleet_cost({"small": 3, "large": 0.5}, hours=10) == pytest.approx(10 * (4.5 + 1.5))
    assert model.currency == "EUR" and model.fleet_cost({}) == 0.0
    assert model.catalogue().index.tolist() == ["small", "large"]


@pytest.mark.parametrize(
    ("name", "region", "factor"),
    [("aws_on_demand", "us-east-1", 1.0), ("azure_on_demand", "eastus", 1.05), ("gcp_on_demand", "us-east4", 0.95)],
)
def test_the_three_providers(name, region, factor):
    model = getattr(CostModel, name)()
    assert model.region == region and model.currency == "USD"
    cheapest = model.catalogue().iloc[0]
    assert cheapest["price_per_hour"] == pytest.approx(0.0104 * factor)
    assert model.catalogue()["price_per_hour"].is_monotonic_increasing
    assert set(model.catalogue("database").columns) == {"vcpu", "memory_gib", "price_per_hour"}


def test_ways_to_buy_agree_with_the_table_and_keep_own_prices():
    aws = CostModel.aws_on_demand(region="eu-west-1")
    for years in (1, 3):
        bought = aws.committed(years)
        table = price_table("AWS", "eu-west-1", purchase="committed", term_years=years).set_index("instance_type")
        for name, row in table.iterrows():
            assert bought.price_per_hour(name) == pytest.approx(row["price"])
        assert bought.price_per_hour("m5.large") == pytest.approx(
            (1 - bought.discount) * aws.price_per_hour("m5.large")
        )
        assert set(bought.prices["purchase"]) == {"committed"} and set(bought.prices["as_of"]) == {"2026-10-01"}
    own = CostModel.gcp_on_demand(OWN).committed(1)
    assert own.currency == "EUR" and own.price_per_hour("small") == pytest.approx(1.5 * 0.72)
    with pytest.raises(BookError, match="Start from the on-demand"):
        own.spot()


def test_units_and_numbers_are_checked():
    model = CostModel(OWN)
    with pytest.raises(SchemaError, match="sold by the GiB-month"):
        model.fleet_cost({"disk": 1})
    with pytest.raises(SchemaError, match="There are small, large, disk"):
        model.price_per_hour("huge")
    with pytest.raises(SchemaError, match="small: -1"):
        model.fleet_cost({"small": -1})
    with pytest.raises(SchemaError, match="EUR and USD"):
        CostModel(OWN.assign(currency=["EUR", "USD", "EUR"]))
    with pytest.raises(SchemaError, match="discount 1.5"):
        CostModel(OWN, discount=1.5)
    with pytest.raises(SchemaError, match="by the hour"):
        model.catalogue(gpus=0).pipe(lambda _: CostModel(OWN[OWN["unit"] != "hour"]).catalogue())


def simulated_hours(work, rate, checkpoint, restart, rng):
    """One job, interruption by interruption."""
    hours, left = 0.0, work
    while left > 1e-12:
        piece = min(checkpoint, left)
        until = rng.exponential(1 / rate)
        if until < piece:
            hours += until + restart
        else:
            hours, left = hours + piece, left - piece
    return hours


@pytest.mark.parametrize(("checkpoint", "restart"), [(1.0, 0.1), (5.0, 0.5), (np.inf, 0.0)])
def test_spot_hours_are_the_mean_of_a_simulation(checkpoint, restart):
    rng = np.random.default_rng(1)
    work, rate = 20.0, 0.05
    runs = np.array([simulated_hours(work, rate, checkpoint, restart, rng) for _ in range(4000)])
    error = runs.std() / np.sqrt(len(runs))
    assert abs(runs.mean() - expected_run_hours(work, rate, checkpoint, restart)) < 4 * error


@given(st.floats(0.1, 500), st.floats(0, 0.2), st.floats(0.1, 5), st.floats(0, 2))
def test_interruptions_never_help(work, rate, checkpoint, restart):
    hours = float(expected_run_hours(work, rate, checkpoint, restart))
    assert hours >= work * (1 - 1e-12)
    assert hours <= float(expected_run_hours(work, rate * 1.5 + 1e-6, checkpoint, restart)) * (1 + 1e-9)
    assert hours <= float(expected_run_hours(work, rate, checkpoint, restart + 0.1)) * (1 + 1e-12)


def test_a_job_on_spot_costs_its_hours_and_no_work_costs_nothing():
    spot = CostModel.aws_on_demand().spot()
    rate = spot.interruptions_per_month / HOURS_PER_MONTH
    by_hand = 100 * np.expm1(rate) * (1 / rate + 0.1) * 0.096 * 0.40
    assert spot.expected_job_cost("m5.large", 100.0) == pytest.approx(by_hand)
    assert spot.expected_job_cost("m5.large", 0.0) == 0.0
    on_demand = CostModel.aws_on_demand()
    assert on_demand.expected_job_cost("m5.large", 100.0) == pytest.approx(9.6)
    # one piece that is lost exp(1) - 1 times on average: each time 1/rate hours, less what was needed, and a restart
    assert float(expected_run_hours(10.0, 0.1, np.inf, 2.0)) == pytest.approx(np.expm1(1) * (10 + 2))
    with pytest.raises(SchemaError, match="work_hours"):
        expected_run_hours(-1.0, 0.1)
    with pytest.raises(SchemaError, match="checkpoint_hours"):
        expected_run_hours(1.0, 0.1, checkpoint_hours=0.0)
