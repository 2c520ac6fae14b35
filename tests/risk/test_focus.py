"""FOCUS files: round trip, every refusal, and commitments that neither lose nor invent cost."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError, SourceError
from support.risk.focus import FOCUS_COLUMNS, check_focus, focus_bill, read_focus, with_commitment, write_focus
from support.telemetry import load

COSTS = ["ListCost", "ContractedCost", "BilledCost", "EffectiveCost"]


def charges(costs, n_days=1):
    """Usage charges of len(costs) resources on each of n_days days."""
    start = pd.date_range("2026-01-01", periods=n_days, freq="D", tz="UTC").repeat(len(costs))
    amount = np.tile(np.asarray(costs, dtype=float), n_days)
    return pd.DataFrame(
        {
            "BillingCurrency": "USD",
            "ChargePeriodStart": start,
            "ChargePeriodEnd": start + pd.Timedelta(days=1),
            "ChargeCategory": "Usage",
            "ServiceName": "Virtual machines",
            "ResourceId": [f"r{k}" for k in range(len(costs))] * n_days,
            **dict.fromkeys(COSTS, amount),
            "ConsumedQuantity": 24.0,
            "ConsumedUnit": "Hours",
            "Tags": [{"team": "a", "n": 'ü, "q"'}] * len(amount),
        }
    )


@pytest.fixture(scope="module")
def bill():
    return focus_bill(load("synthetic:cloud", seed=3, days=3, n_resources=12))


def test_the_bill_is_the_estates_cost(bill):
    estate = load("synthetic:cloud", seed=3, days=3, n_resources=12)
    assert bill["BilledCost"].sum() == pytest.approx(estate.observations["cost_usd"].sum(), rel=1e-12)
    assert (bill["ConsumedQuantity"] == 24).all() and bill["ResourceId"].nunique() == 12
    by_id = bill.drop_duplicates("ResourceId").set_index("ResourceId")
    for name, row in estate.resources.iterrows():
        assert by_id.loc[name, "RegionId"] == row["region"]
        assert by_id.loc[name, "Tags"] == {t: row[t] for t in ("team", "environment") if isinstance(row[t], str)}
    hourly = focus_bill(estate, period="h")
    assert len(hourly) == 12 * 72 and (hourly["ConsumedQuantity"] == 1).all()


def test_round_trip(bill, tmp_path):
    for number, frame in enumerate((bill, with_commitment(bill, 5.0, 0.28), charges([1.0, 2.5], 2))):
        path = tmp_path / f"{number}.csv"
        write_focus(frame, path)
        read = read_focus(str(path))
        assert [c for c in FOCUS_COLUMNS if c in frame] == list(read.columns)
        for name in read:
            kind = FOCUS_COLUMNS[name][0]
            if kind == "number":
                np.testing.assert_allclose(read[name], frame[name].astype(float), rtol=1e-12)  # pandas reads 15 digits
            else:
                wanted = frame[name].astype(object).where(frame[name].notna(), None)
                assert read[name].tolist() == wanted.tolist(), name


def test_a_file_of_a_provider_is_read_with_more_columns_and_refunds(tmp_path):
    text = (
        "BilledCost,EffectiveCost,ListCost,ContractedCost,BillingCurrency,ChargePeriodStart,ChargePeriodEnd,"
        "ChargeCategory,ServiceName,x_Own,Tags\n"
        '1.5,1.5,2,1.5,EUR,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z,Usage,VM,7,"{""team"": ""a""}"\n'
        "-0.5,-0.5,0,0,EUR,2026-01-01 00:00:00,2026-01-02 00:00:00,Credit,VM,7,\n"
    )
    path = tmp_path / "export.csv"
    path.write_text(text)
    read = read_focus(str(path))
    assert read["EffectiveCost"].sum() == 1.0 and "x_Own" not in read
    assert read["Tags"].tolist() == [{"team": "a"}, {}]
    assert str(read["ChargePeriodStart"].dt.tz) == "UTC"
    path.write_text(text.replace("T00:00:00Z", " 00:00:00"))  # without a zone: FOCUS says UTC
    pd.testing.assert_series_equal(read_focus(str(path))["ChargePeriodEnd"], read["ChargePeriodEnd"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.drop(columns="EffectiveCost"), "no column EffectiveCost"),
        (lambda f: f.assign(BilledCost=[-1.0, 1.0]), r"BilledCost is negative; mark refunds as Credit.*1 of 2 rows"),
        (lambda f: f.assign(ConsumedQuantity=-1.0), "ConsumedQuantity is negative"),
        (lambda f: f.assign(BillingCurrency=["USD", "EUR"]), "EUR and USD. Read one currency"),
        (lambda f: f.assign(ListCost=[np.nan, 1.0]), "ListCost is empty"),
        (lambda f: f.assign(ChargeCategory="Gift"), "ChargeCategory must be one of Usage"),
        (lambda f: f.assign(ChargePeriodEnd=f["ChargePeriodStart"]), "must be after"),
        (lambda f: f.assign(CommitmentDiscountStatus="Used"), "needs the CommitmentDiscountId"),
        (lambda f: f.assign(CommitmentDiscountId="x", CommitmentDiscountStatus="Half"), "must be Used, Unused"),
        (lambda f: f.assign(ChargeCategory="Purchase", CommitmentDiscountId="x"), "its cost is amortised"),
        (lambda f: f.iloc[:0], "no charges"),
    ],
)
def test_what_breaks_the_rules_is_refused_with_the_mend(change, told):
    good = charges([1.0, 2.0])
    assert check_focus(good) is good
    with pytest.raises(SchemaError, match=told):
        check_focus(change(good))


def test_corrections_may_be_negative():
    frame = charges([1.0, -2.0]).assign(ChargeClass=[None, "Correction"])
    assert len(check_focus(frame)) == 2


def test_bad_cells_are_named(tmp_path):
    path = tmp_path / "x.csv"
    with pytest.raises(SourceError):
        read_focus(str(tmp_path / "none.csv"))
    for column, cell in (("BilledCost", "a lot"), ("ChargePeriodStart", "once"), ("Tags", "[1]"), ("Tags", "{")):
        frame = charges([1.0]).assign(Tags=json.dumps({}))
        frame[column] = frame[column].astype(object)
        frame.loc[0, column] = cell
        frame.to_csv(path, index=False)
        with pytest.raises(SchemaError, match=f"{column} does not hold"):
            read_focus(str(path))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=5),
    st.integers(1, 3),
    st.floats(0, 300),
    st.floats(0, 0.9),
)
def test_amortising_conserves_cost(costs, n_days, committed, discount):
    before = charges(costs, n_days)
    after = with_commitment(before, committed, discount)
    by_day = after.groupby("ChargePeriodStart")[COSTS].sum()
    np.testing.assert_allclose(by_day["BilledCost"], by_day["EffectiveCost"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_day["ListCost"], sum(costs), rtol=1e-9, atol=1e-9)
    # What every day must cost: the fee, and the list price of what the commitment does not cover.
    wanted = committed * (1 - discount) + max(sum(costs) - committed, 0.0)
    np.testing.assert_allclose(by_day["EffectiveCost"], wanted, rtol=1e-9, atol=1e-9)
    usage = after[(after["ChargeCategory"] == "Usage") & (after["CommitmentDiscountStatus"] != "Unused")]
    np.testing.assert_allclose(usage["ConsumedQuantity"].sum(), 24.0 * len(costs) * n_days)
    used = after["CommitmentDiscountStatus"] == "Used"
    assert (after.loc[used, "BilledCost"] == 0).all()


def test_a_second_commitment_and_bad_numbers_are_refused():
    once = with_commitment(charges([5.0]), 2.0, 0.3)
    with pytest.raises(SchemaError, match="already"):
        with_commitment(once, 1.0, 0.3)
    for committed, discount in ((-1.0, 0.3), (1.0, 1.0)):
        with pytest.raises(SchemaError, match="at least 0"):
            with_commitment(charges([5.0]), committed, discount)


def test_tags_of_a_parquet_map_are_read(tmp_path):
    """As the cloud providers' exports have them: a map of text to text, which pandas makes pairs of."""
    frame = charges([1.0, 2.0, 3.0])
    tags = [{"team": "a", "env": "prod"}, {}, None]
    columns = pa.Table.from_pandas(frame.drop(columns="Tags"), preserve_index=False)
    kind = pa.map_(pa.string(), pa.string())
    pairs = pa.array([None if t is None else list(t.items()) for t in tags], kind)
    pq.write_table(columns.append_column("Tags", pairs), tmp_path / "export.parquet")
    assert read_focus(str(tmp_path / "export.parquet"))["Tags"].tolist() == [tags[0], {}, {}]


def test_times_are_written_in_utc_whatever_their_zone(tmp_path):
    frame = charges([1.0], 2)
    local = frame.assign(**{c: frame[c].dt.tz_convert("Asia/Tokyo") for c in ("ChargePeriodStart", "ChargePeriodEnd")})
    write_focus(local, tmp_path / "bill.csv")
    assert "2026-01-01T00:00:00Z,2026-01-02T00:00:00Z" in (tmp_path / "bill.csv").read_text()
    assert read_focus(str(tmp_path / "bill.csv"))["ChargePeriodStart"].tolist() == frame["ChargePeriodStart"].tolist()


def test_a_purchase_that_is_no_commitment_costs_what_it_costs():
    """FOCUS 1.2, EffectiveCost: 0 for a Purchase "intended to cover future eligible charges", not for a licence."""
    licence = charges([5.0]).assign(ChargeCategory="Purchase", CommitmentDiscountId=None)
    assert check_focus(licence) is licence
    with pytest.raises(SchemaError, match="its cost is amortised"):
        check_focus(licence.assign(CommitmentDiscountId="x"))
