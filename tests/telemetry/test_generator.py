"""The presets: same seed same data, documented shapes and shares, truths that can be measured again."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError, SourceError
from support.telemetry import Telemetry, load, stream, synthetic, taxonomy
from support.telemetry.calendars import calendar_features, flat
from support.telemetry.generation.cloud import TAGS, instances, unit_economics
from support.telemetry.generation.presets import PRESETS, industries

STEPS = st.sampled_from([60.0, 300.0, 3600.0])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31), preset=st.sampled_from(sorted(PRESETS)), step=STEPS, rate=st.sampled_from([0.0, 0.1])
)
def test_same_arguments_same_data(seed, preset, step, rate):
    one, two = (synthetic(preset, seed=seed, days=2, step_seconds=step, anomaly_rate=rate) for _ in range(2))
    pd.testing.assert_frame_equal(one.observations, two.observations)
    pd.testing.assert_frame_equal(one.labels, two.labels)
    assert one.synthetic and one.step_seconds == step and str(seed) in one.provenance
    assert not one.observations.equals(synthetic(preset, seed=seed + 1, days=2, step_seconds=step).observations)


@pytest.mark.parametrize("preset", [p for p, of in PRESETS.items() if of.highest_resources is None])
def test_a_resource_does_not_depend_on_the_others_nor_on_the_blocks(preset):
    few = synthetic(preset, seed=5, days=2, n_resources=3, anomaly_rate=0.05, step_seconds=3600.0)
    many = synthetic(preset, seed=5, days=2, n_resources=11, anomaly_rate=0.05, step_seconds=3600.0)
    pd.testing.assert_frame_equal(few.observations, many.observations.loc[few.resource_ids])
    pd.testing.assert_frame_equal(few.resources, many.resources.iloc[:3])
    blocks = list(
        stream(preset, seed=5, days=2, n_resources=11, anomaly_rate=0.05, step_seconds=3600.0, rows_per_block=100)
    )
    assert len(blocks) == 6
    pd.testing.assert_frame_equal(pd.concat([b.observations for b in blocks]), many.observations)
    pd.testing.assert_frame_equal(pd.concat([b.resources for b in blocks]), many.resources)
    assert sum(len(b.labels) for b in blocks) == len(many.labels)


DIGESTS = {
    "fleet": "8830a73bad9383b0",
    "banking": "5f33f0f48be6d00d",
    "events": "8d97a5949564d4dc",
    "web": "213f5442f57ab4c8",
}


@pytest.mark.parametrize("preset", DIGESTS)
def test_same_data_on_every_machine(preset):
    made = synthetic(preset, seed=1, days=3, step_seconds=3600.0).observations
    digest = hashlib.sha256(np.ascontiguousarray(made.to_numpy().round(2))).hexdigest()[:16]
    assert digest == DIGESTS[preset]


def test_the_fleet_follows_the_shares_of_the_table():
    resources = synthetic("fleet", seed=2, days=1, n_resources=600, step_seconds=3600.0).resources
    shares = taxonomy("workload")["share"]
    found = resources["workload"].value_counts(normalize=True).reindex(shares.index).fillna(0)
    assert np.abs(found - shares / shares.sum()).max() < 0.06


def test_the_workload_preset_has_the_nine_documented_metrics_of_any_type():
    made = synthetic("workload", seed=1, days=1, workload="redis_cache")
    wanted = ["cpu_utilization", "memory_utilization", "network_in_mbps", "network_out_mbps", "disk_iops"]
    flags = ["efficiency_score", "is_idle", "is_overprovisioned", "waste_percentage"]
    assert list(made.observations.columns) == wanted + flags
    assert made.resources["workload"].tolist() == ["redis_cache"]


def test_holes_are_spells_of_the_stated_share():
    made = synthetic("fleet", seed=4, n_resources=10, missing_frac=0.05).observations
    hole = made["cpu_utilization"].isna()
    assert hole.mean() == pytest.approx(0.05, abs=0.01) and made[hole].isna().all(axis=None)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], hole, [0]]))))[::2]
    assert runs.mean() * 5 == pytest.approx(30, rel=0.25)


# banking


@pytest.fixture(scope="module")
def bank():
    return synthetic("banking", seed=1)


def test_the_bank_is_the_documented_fleet(bank):
    assert len(bank.observations) == 175_320 and not bank.observations.isna().any(axis=None)
    assert bank.resources["server_type"].value_counts().to_dict() == {
        "application": 48,
        "web": 42,
        "database": 18,
        "batch": 12,
    }
    table = flat(bank)
    assert table.shape == (175_320, 18)
    assert (table["timestamp"].min(), table["timestamp"].max()) == tuple(
        pd.to_datetime(["2022-01-01", "2025-12-31"], utc=True)
    )
    assert set(bank.resources["criticality"]) == {"High", "Medium", "Low"} and bank.resources["region"].nunique() == 4


def test_archetypes_of_the_bank_are_told_apart(bank):
    means = bank.observations.join(bank.resources["server_type"], on="resource_id").groupby("server_type").mean()
    rows = taxonomy("server")
    assert (means["memory_utilization"].rank() == rows["memory_mean_percent"].reindex(means.index).rank()).all()
    assert means["network_in_mbps"].corr(rows["network_mean_mbps"].reindex(means.index)) > 0.99


def test_growth_of_the_bank_is_the_stated_one(bank):
    used = bank.observations["cpu_utilization"].unstack("resource_id")
    frame = used.where(used <= 85, 85 + 15 * (used - 85) / (100 - used))  # demand: the growth is of what is asked for
    days = calendar_features(frame.index)
    # the same calendar in every year: only the trend is left between years
    plain = frame[~days["is_weekend"] & ~days["is_holiday"] & ~days["is_eoq"]]
    yearly = np.log(plain.groupby(plain.index.year).mean())
    for kind in ("database", "application"):
        of_kind = bank.resources.index[bank.resources["server_type"] == kind]
        monthly = np.expm1(np.polyfit(yearly.index * 12.0, yearly[of_kind].mean(axis=1), 1)[0])
        assert monthly == pytest.approx(taxonomy("server").loc[kind, "growth_percent_per_month"] / 100, abs=0.002)


def test_quarter_end_and_holidays_of_the_bank(bank):
    kind = bank.resources["server_type"]
    frame = bank.observations["cpu_utilization"].unstack("resource_id")[kind.index[kind == "web"]]
    level = np.log(frame).mean(axis=1)
    level = level - level.rolling(91, center=True, min_periods=30).median()
    last_days = pd.DatetimeIndex(
        ["2023-03-31", "2023-06-30", "2023-09-29", "2024-03-28", "2024-09-30", "2024-12-31"], tz="UTC"
    )
    same_weekday = level.reindex(last_days - pd.Timedelta(days=21)).to_numpy()
    surge = np.exp((level.reindex(last_days).to_numpy() - same_weekday).mean())
    assert surge == pytest.approx(1.30, abs=0.08)
    free = pd.DatetimeIndex(["2023-07-04", "2024-07-04", "2024-11-28", "2023-12-25"], tz="UTC")
    drop = np.exp((level.reindex(free) - level.reindex(free - pd.Timedelta(days=7)).to_numpy()).mean())
    assert drop == pytest.approx(0.6, abs=0.08)


def test_the_bank_by_the_hour_is_busy_in_local_hours():
    hourly = synthetic("banking", seed=1, start="2024-01-08", days=5, step_seconds=3600.0, n_resources=40)
    web = hourly.resources.query("server_type == 'web' and region == 'ap-southeast-1'").index
    cpu = hourly.observations.loc[web.tolist(), "cpu_utilization"].groupby(level="timestamp").mean()
    local = cpu.tz_convert("Asia/Singapore")
    assert set(local.groupby(local.index.hour).mean().nlargest(8).index) <= set(range(8, 18))


# events


def test_events_are_as_described():
    made = synthetic("events", seed=1, days=2000).observations.droplevel(0)
    by_hour = made["requests"].groupby(made.index.hour).mean()
    assert 2 in by_hour.nlargest(3).index and 16 in by_hour.nsmallest(3).index
    assert by_hour.max() == pytest.approx(5835, rel=0.1) and by_hour.min() == pytest.approx(1740, rel=0.1)
    weekend = made.index.dayofweek >= 5
    assert made["requests"][weekend].mean() / made["requests"][~weekend].mean() == pytest.approx(0.33, abs=0.03)
    assert made["latency_ms"].mean() == pytest.approx(73.6, rel=0.02)
    assert made["requests"].quantile(0.95) == pytest.approx(10_134, rel=0.1)


def test_the_queue_is_lindleys_recursion_and_loses_nothing():
    made = synthetic("events", seed=2, days=3).observations
    arrivals, queue = made["requests"].to_numpy(), made["queue_length"].to_numpy()
    capacity, waiting = np.floor(7 * 120_000 / 73.6), 0.0
    for a, q, done in zip(arrivals, queue, made["processed"], strict=True):
        before, waiting = waiting, max(waiting + a - capacity, 0.0)
        assert q == waiting and done == before + a - waiting


# cloud


@pytest.fixture(scope="module")
def estate():
    return synthetic("cloud", seed=3, days=2, n_resources=400, step_seconds=3600.0)


def test_the_estate_spans_providers_types_and_regions(estate):
    table = estate.resources
    assert set(table["provider"]) == {"AWS", "Azure", "GCP"} and table["region"].nunique() == 12
    assert set(table["resource_type"]) == {"compute", "storage", "network", "database"}
    gaps = table[list(TAGS)].isna().mean()
    for tag, (missing, _) in TAGS.items():
        assert gaps[tag] == pytest.approx(missing, abs=0.08)
    assert table["customer"].value_counts().index[0] in ("customer-01", "customer-02")


def test_cost_is_the_list_price_times_the_hours(estate):
    table, cost = estate.resources, estate.observations["cost_usd"].groupby(level="resource_id").sum()
    factor = {"AWS": 1.0, "Azure": 1.05, "GCP": 0.95}
    for name, row in table.iterrows():
        listed = instances()[instances()[row["provider"].lower()] == row["instance_type"]].iloc[0]
        price = listed["price_usd"] * factor[row["provider"]]
        if row["resource_type"] == "storage":
            price *= row["size_gib"] / 730
        if row["resource_type"] == "network":
            out = estate.observations.loc[name, "network_out_mbps"].mean() * 3600 * 48 / 8 / 1000  # GB
            assert cost[name] == pytest.approx(price * 48 + out * 0.09 * factor[row["provider"]], rel=1e-2)
        else:
            assert cost[name] == pytest.approx(price * 48, abs=48 * 5e-5)


@pytest.mark.parametrize("by", ["customer", "team", "product", "provider", "resource_type"])
def test_unit_economics_against_a_loop(estate, by):
    table = unit_economics(estate, by)
    total = estate.observations["cost_usd"].sum()
    assert table["cost_usd"].sum() == pytest.approx(total) and table["cost_share"].sum() == pytest.approx(1)
    assert table["resources"].sum() == 400
    for value, row in table.iterrows():
        ids = estate.resources.index[estate.resources[by].fillna("(untagged)") == value]
        part = estate.observations.loc[ids.tolist()]
        assert row["cost_usd"] == pytest.approx(part["cost_usd"].sum()) and row["requests"] == pytest.approx(
            part["requests"].sum(min_count=1), nan_ok=True
        )
        serving = [i for i in ids if estate.observations.loc[i, "requests"].notna().any()]
        if serving:
            spent = estate.observations.loc[serving, "cost_usd"].sum()
            assert row["usd_per_million_requests"] == pytest.approx(spent / row["requests"] * 1e6)


def test_unit_economics_says_what_is_missing(estate):
    with pytest.raises(SchemaError, match="no 'planet'; there are"):
        unit_economics(estate, "planet")
    with pytest.raises(SchemaError, match="no cost_usd"):
        unit_economics(synthetic("fleet", seed=1, days=1), "workload")


# industries


def test_effects_of_industries_are_truths_that_can_be_found():
    made = synthetic("industries", seed=6, days=7, n_resources=240, step_seconds=3600.0)
    rows = made.resources
    assert set(rows["industry"]) == set(industries().index) and rows.groupby("industry").size().eq(240 // 6).all()
    assert rows.groupby(["industry", "application"])["application_effect"].nunique().max() == 1
    log_cpu = np.log(made.observations["cpu_utilization"]).groupby(level="resource_id").mean()
    effect = rows[["industry_effect", "application_effect", "resource_effect"]].sum(axis=1)
    # within one archetype the level moves with the effects one for one
    centred = pd.DataFrame({"y": log_cpu, "x": effect, "app": rows["application"]})
    centred = centred[
        ~centred["app"].isin(["batch_etl_pipeline", "ml_training_gpu", "video_streaming", "ci_cd_pipeline"])
    ]  # these saturate
    centred[["y", "x"]] -= centred.groupby("app")[["y", "x"]].transform("mean")
    assert np.polyfit(centred["x"], centred["y"], 1)[0] == pytest.approx(1.0, abs=0.1)


# what is refused


@pytest.mark.parametrize(
    ("preset", "options", "says"),
    [
        ("moon", {}, "no such preset. Use web"),
        ("web", {"days": -1}, "days=-1"),
        ("web", {"step_seconds": 0.5}, "step_seconds=0.5"),
        ("web", {"step_seconds": 7.0}, "divides a day"),
        ("fleet", {"n_resources": 0}, "n_resources=0"),
        ("web", {"n_resources": 3}, "n_resources does not apply to this preset"),
        ("fleet", {"workload": "moon"}, "'moon': no such type"),
        ("banking", {"workload": "cache"}, "'cache': no such type. Use one of web, database"),
        ("fleet", {"start": "2026-13-01"}, "no date"),
        ("fleet", {"start": "2026-01-01 05:00"}, "time of day"),
        ("fleet", {"start": "2026-01-05", "end": "2026-01-01"}, "days=-3"),
        ("fleet", {"end": "2026-04-01", "days": 3}, "both given"),
        ("banking", {"days": 1}, "1 interval"),
        ("fleet", {"missing_frac": 1.0}, "missing_frac=1.0"),
        ("fleet", {"timezone": "Mars/Olympus", "days": 1}, "timezone"),
        ("fleet", {"country": "XX", "days": 1}, "country 'XX'"),
    ],
)
def test_refusals(preset, options, says):
    with pytest.raises((SourceError, SchemaError), match=says):
        synthetic(preset, seed=1, **options)


def test_dates_are_inclusive():
    made = load("synthetic:banking", seed=1, start="2024-02-01", end="2024-02-29", n_resources=2)
    assert len(made.observations) == 58


def test_a_seed_is_needed():
    with pytest.raises(SourceError, match="needs a seed"):
        load("synthetic")


def test_an_estate_of_some_providers_and_types():
    made = synthetic(
        "cloud", seed=1, days=1, n_resources=20, providers="AWS, GCP", resource_types=["compute"]
    ).resources
    assert set(made["provider"]) == {"AWS", "GCP"} and set(made["resource_type"]) == {"compute"}
    with pytest.raises(SourceError, match="provider 'Oracle' is not known. Use some of AWS, Azure, GCP"):
        synthetic("cloud", seed=1, days=1, n_resources=1, providers="Oracle")


def test_fitted_presets_come_through_the_same_door():
    few, many = (load("fitted:bitbrains", seed=3, days=2, n_resources=n) for n in (2, 4))
    pd.testing.assert_frame_equal(few.observations, many.observations.loc[few.resource_ids])
    assert few.source == "fitted:bitbrains" and few.synthetic and "seed 3" in few.provenance
    assert len(load("fitted:bitbrains-rnd", seed=1, days=1, n_resources=1).metrics) == 6
    with pytest.raises(SourceError, match="fitted:moon: no such model. Use one of asd, bitbrains"):
        load("fitted:moon", seed=1)


def test_a_service_nobody_asked_has_no_cost_per_request():
    times = pd.date_range("2026-01-01", periods=3, freq="1h", tz="UTC")
    index = pd.MultiIndex.from_product([["idle", "web"], times], names=["resource_id", "timestamp"])
    frame = pd.DataFrame({"requests": [0.0] * 3 + [1e6] * 3, "cost_usd": 0.5}, index=index)
    owners = pd.DataFrame({"customer": ["a", "b"]}, index=pd.Index(["idle", "web"], name="resource_id"))
    table = unit_economics(Telemetry(frame, 3600.0, resources=owners))
    assert np.isnan(table.loc["a", "usd_per_million_requests"]) and table.loc["a", "cost_usd"] == 1.5
    assert table.loc["b", "usd_per_million_requests"] == pytest.approx(0.5)
