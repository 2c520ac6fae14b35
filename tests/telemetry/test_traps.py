"""Traps of real files: each once gave a wrong answer without a word, and is now read right, or refused, or at least said."""

import functools
import gzip
import http.server
import threading
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import BookError, SchemaError, SourceError
from support.telemetry import Telemetry, load
from support.telemetry.reading.mapping import map_telemetry
from support.telemetry.reading.tidy import tidy


def table(n=400, step=60, first="2026-01-05"):
    times = pd.date_range(first, periods=n, freq=f"{step}s")
    return pd.DataFrame({"timestamp": times, "requests": np.arange(n) % 50 + 100.0})


def saved(tmp_path, frame, name="my.csv", **options):
    frame.to_csv(tmp_path / name, index=False, **options)
    return str(tmp_path / name)


def repairs(telemetry):
    return {r.what: r.count for r in telemetry.repairs}


def refused(path, match, kind=SchemaError, **options):
    with pytest.raises(kind, match=match) as caught:
        load(str(path), **options)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=40)
@given(
    offset=st.floats(0, 1), jitter=st.floats(0, 0.2), step=st.sampled_from([10, 60, 300, 3600]), seed=st.integers(0, 99)
)
def test_no_request_is_lost_or_doubled_wherever_in_the_interval_the_stamps_lie(offset, jitter, step, seed):
    frame = table(200, step)
    moved = offset * step + np.random.default_rng(seed).uniform(-jitter, jitter, 200) * step / 2
    moved -= min(moved[0], 0)
    frame["timestamp"] += pd.to_timedelta(np.round(moved, 3), "s")
    telemetry = tidy(frame, source="f", provenance="p")
    assert telemetry.step_seconds == step
    assert telemetry.demand().tolist() == frame["requests"].tolist()
    assert "quality_flag" not in telemetry.observations


def test_a_stray_date_is_refused_before_a_grid_of_a_century_is_made(tmp_path):
    path = saved(tmp_path, pd.concat([table(step=1), table(1, first="2096-01-01")]))
    load(saved(tmp_path, table(), "warm.csv"))
    tracemalloc.start()
    refused(path, "2026-01-05 .* to 2096-01-01 .*stray dates")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("late", [1, 150, 399])
def test_times_with_and_without_a_zone_are_not_mixed(tmp_path, late):
    texts = [f"{t}{'+02:00' if i >= late else ''}" for i, t in enumerate(table()["timestamp"])]
    refused(saved(tmp_path, table().assign(timestamp=texts)), f"row {late + 2} .*carries a timezone and row 2 none")


def test_a_date_that_ends_like_an_offset_is_none(tmp_path):
    frame = table(100, 86_400, "2025-12-13")
    frame["timestamp"] = frame["timestamp"].dt.strftime("%d-%m-%Y")
    telemetry = load(saved(tmp_path, frame))
    assert telemetry.demand().index[0] == pd.Timestamp("2025-12-13", tz="UTC")
    assert "timestamps carry no timezone, taken as UTC" in repairs(telemetry)


@pytest.mark.parametrize("pattern", ["%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M", "%d/%m/%y %H:%M"])
def test_day_and_month_are_never_swapped(tmp_path, pattern):
    frame = table(400, 3600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        telemetry = load(saved(tmp_path, frame.assign(timestamp=frame["timestamp"].dt.strftime(pattern))))
    assert telemetry.demand().tolist() == frame["requests"].tolist()
    assert telemetry.demand().index[0] == pd.Timestamp("2026-01-05", tz="UTC")
    assert any(what.startswith("dates read as") for what in repairs(telemetry))


def test_day_and_month_that_cannot_be_told_apart_are_refused(tmp_path):
    frame = table(48, 3600, "2026-05-05")
    path = saved(tmp_path, frame.assign(timestamp=frame["timestamp"].dt.strftime("%d/%m/%Y %H:%M")))
    refused(path, "day/month or month/day")


def test_a_time_of_day_is_no_time(tmp_path):
    frame = table()
    split = pd.DataFrame({"date": frame["timestamp"].dt.date, "time": frame["timestamp"].dt.time, "hits": 1.0})
    refused(saved(tmp_path, split), "more than one column may hold the time")
    refused(saved(tmp_path, split), "times of day without a date", timestamp_column="time")


@pytest.mark.parametrize("pattern", ["%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S"])
def test_digits_of_a_date_are_no_epoch(tmp_path, pattern):
    frame = table(60, 86_400)
    refused(saved(tmp_path, frame.assign(timestamp=frame["timestamp"].dt.strftime(pattern))), "no epoch times")


def test_one_bad_epoch_among_many(tmp_path):
    seconds = (table()["timestamp"].astype("datetime64[ns]").astype("int64") // 10**9).astype(str)
    seconds[5] = "x"
    telemetry = load(saved(tmp_path, table().assign(timestamp=seconds)))
    assert repairs(telemetry)["timestamps that could not be read"] == 1 and len(telemetry.demand()) == 400


def test_an_hour_that_the_clock_skips_is_dropped_and_counted(tmp_path):
    frame = table(96, 300, "2026-03-29")
    telemetry = load(saved(tmp_path, frame), timezone="Europe/Paris")
    assert repairs(telemetry)["timestamps in the hour that the clock skips, dropped"] == 12
    assert len(telemetry.demand()) == 84 and "quality_flag" not in telemetry.observations


def test_a_timezone_that_is_not_needed_is_said(tmp_path):
    path = saved(tmp_path, table().assign(timestamp=table()["timestamp"].astype(str) + "Z"))
    assert (
        repairs(load(path, timezone="Europe/Paris"))["timezone Europe/Paris not used: timestamps carry their own"]
        == 400
    )


def test_requests_win_over_a_rate_and_the_rate_is_named(tmp_path):
    telemetry = load(saved(tmp_path, table().assign(rps=7.0)))
    assert telemetry.demand().tolist() == table()["requests"].tolist()
    assert repairs(telemetry)["numeric columns not used: rps"] == 1
    named = load(saved(tmp_path, table().assign(rps=7.0)), value_column="rps", metric="requests")
    assert set(named.demand()) == {420.0}


def test_names_decide_not_the_order_of_columns(tmp_path):
    frame = pd.DataFrame({"timestamp": table()["timestamp"], "hits": 1.0, "requests": 2.0})
    assert set(load(saved(tmp_path, frame)).demand()) == {2.0}
    frame = pd.DataFrame({"row_id": range(400), "timestamp": table()["timestamp"], "throughput": 3.0})
    telemetry = load(saved(tmp_path, frame))
    assert set(telemetry.demand()) == {3.0} and "column 'throughput' taken as requests" in repairs(telemetry)
    frame = pd.DataFrame({"timestamp": table()["timestamp"], "temp": 1.0, "value": 4.0})
    assert set(load(saved(tmp_path, frame)).demand()) == {4.0}


def test_flags_alone_are_no_metric(tmp_path):
    frame = pd.DataFrame({"timestamp": table()["timestamp"], "quality_flag": 2.0, "throughput": 3.0})
    assert load(saved(tmp_path, frame)).metrics == ["requests"]


def test_flags_of_the_file_survive_the_filling(tmp_path):
    frame = table().assign(quality_flag=0.0)
    frame.loc[7, "quality_flag"] = 2.0
    flags = load(saved(tmp_path, frame.drop(index=20))).observations["quality_flag"].to_numpy()
    assert flags[7] == 2 and flags[20] == 1 and flags.sum() == 3


def test_a_long_gap_without_a_day_to_copy_is_reported_as_what_it_is(tmp_path):
    telemetry = load(saved(tmp_path, table().drop(index=range(100, 290))))
    said = [what for what, count in repairs(telemetry).items() if count == 190]
    assert len(said) == 1 and "interpolated although" in said[0]


def test_no_header(tmp_path):
    refused(saved(tmp_path, table(), header=False), "has no header", SourceError)


def test_decimal_commas_but_not_thousands(tmp_path):
    frame = table().assign(requests=lambda f: f["requests"] + 0.5)
    telemetry = load(saved(tmp_path, frame, sep=";", decimal=","))
    assert telemetry.demand().tolist() == frame["requests"].tolist()
    assert repairs(telemetry)["decimal commas read as decimal points"] == 400
    refused(saved(tmp_path, table().assign(requests="1,100"), sep=";"), "1,100.*separators of thousands")


def test_a_small_file_that_unfolds_to_a_large_one(tmp_path):
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"timestamp,requests\n" + b"0" * 30_000_000))
    assert path.stat().st_size < 1e6
    tracemalloc.start()
    refused(path, "more than", SourceError, max_bytes=1e6)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_percentages_out_of_the_usual_range_are_said(tmp_path):
    high = load(saved(tmp_path, table().rename(columns={"requests": "cpu"}).assign(cpu=lambda f: f["cpu"] - 45)))
    assert repairs(high)["values of cpu_utilization above 100 percent, kept"] == 32
    low = load(saved(tmp_path, pd.DataFrame({"timestamp": table()["timestamp"], "cpu": 0.4})))
    assert any("not as a fraction" in what for what in repairs(low))


def test_resources_that_come_and_go_are_said(tmp_path):
    frame = pd.concat([table().assign(host="a"), table(200).assign(host="b"), table(50).assign(host=np.nan)])
    said = repairs(load(saved(tmp_path, frame)))
    assert said["intervals before a resource's first or after its last row, not counted in totals"] == 200 + 350
    assert said["rows without a 'host', kept as resource 'unnamed'"] == 50


def test_options_that_do_not_apply_are_refused(tmp_path):
    path = saved(tmp_path, table())
    refused(path, "option colour", SourceError, colour="red")
    refused(path, "duplicates='median'", duplicates="median")
    refused(path, "fill='magic'", fill="magic")
    refused("synthetic", "option timezone", SourceError, seed=1, timezone="UTC")
    refused("synthetic", "days=0", SourceError, seed=1, days=0)
    refused("worldcup99", "neither a file nor a known source.*worldcup98", SourceError)
    assert len(load(path, timezone=None).demand()) == 400


def test_synthetic_at_any_step():
    assert load("synthetic", seed=1, days=1, step_seconds=10.0).step_seconds == 10
    assert len(load("synthetic", seed=1, days=2, step_seconds=90.0).demand()) == 1920


def test_missing_values_are_not_summed_away():
    index = pd.MultiIndex.from_product(
        [["a", "b"], pd.date_range("2026-01-01", periods=4, freq="60s", tz="UTC")], names=["resource_id", "timestamp"]
    )
    frame = pd.DataFrame({"requests": [1.0, np.nan, 2, 3, *[np.nan] * 4], "cpu_utilization": 5.0}, index=index)
    coarse = Telemetry(frame, 60.0).resample(120.0)
    with pytest.raises(SchemaError, match="missing at 2026-01-01 00:00:00"):
        coarse.demand()
    with pytest.raises(SchemaError, match="missing at 2026-01-01 00:01:00"):
        Telemetry(frame, 60.0).demand()
    frame.iloc[1, 0] = 4.0
    assert Telemetry(frame, 60.0).demand().tolist() == [1, 4, 2, 3]  # b has no requests at all
    with pytest.raises(SchemaError, match="first value inf"):
        Telemetry(frame.assign(requests=np.inf), 60.0)


def test_resources_must_know_every_resource():
    frame = load("synthetic", seed=1, days=1).observations
    with pytest.raises(SchemaError, match="resources lacks"):
        Telemetry(frame, 60.0, resources=pd.DataFrame({"workload": ["x"]}, index=["other"]))


@pytest.fixture
def server(tmp_path):
    """A web server on this machine; its address."""
    table().to_csv(tmp_path / "my.csv", index=False)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    ) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_http(server):
    telemetry = load(f"{server}/my.csv?key=secret/part")
    assert telemetry.demand().tolist() == table()["requests"].tolist()
    assert "secret" not in telemetry.provenance + telemetry.source
    refused(f"{server}/gone.csv", "answered 404", SourceError)
    refused(f"{server}/my.csv", "more than", SourceError, max_bytes=100)


def test_http_without_a_server():
    with pytest.raises(SourceError, match="cannot be fetched") as caught:
        load("http://127.0.0.1:9/my.csv?key=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("fill", ["interpolate", "none"])
def test_a_missing_count_beside_two_rows_of_one_interval_stays_missing(fill):
    rows = [(f"2026-01-01 00:{m:02d}:00", 10.0) for m in range(30)]
    rows[5] = (rows[5][0], float("nan"))
    rows.insert(10, ("2026-01-01 00:09:20", 7.0))  # shares the interval of 00:09
    telemetry = tidy(pd.DataFrame(rows, columns=["timestamp", "requests"]), source="s", provenance="p", fill=fill)
    values = telemetry.observations["requests"].to_numpy()
    assert values[9] == 17 and (np.isnan(values[5]) if fill == "none" else values[5] == 10)


def test_an_empty_timezone_is_refused(tmp_path):
    refused(saved(tmp_path, table()), "no timezone ''", timezone="")


def german(number):
    """1234567.5 as 1.234.567,5: what a German spreadsheet writes."""
    return f"{number:,}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize("odd", [1_234_567, 2_345_678.5, 234.5])
@pytest.mark.parametrize(
    "share", [1, 200]
)  # of 400 rows: few are dropped as unreadable, many are refused as no numbers
def test_german_thousands_are_never_read_as_decimals(tmp_path, odd, share):
    numbers = [1234 + k for k in range(400 - share)] + [odd] * share
    frame = table().assign(requests=[german(n) for n in numbers])
    for separator in (";", ","):
        path = saved(tmp_path, frame, sep=separator)
        for read in (load, functools.partial(map_telemetry, columns={"requests": "requests"}, layout="canonical")):
            with pytest.raises(BookError, match="separator"):
                read(path)


def test_german_thousands_beside_decimal_commas_in_another_column(tmp_path):
    frame = table().assign(
        requests=[german(1234 + k) for k in range(400)], cpu=[german(k / 400 + 1.5) for k in range(400)]
    )
    refused(saved(tmp_path, frame, sep=";"), "decimal comma.*thousands", SourceError)


def test_a_demand_in_german_is_not_replaced_by_another_column(tmp_path):
    frame = table().assign(requests=[german(1234.5 + k) for k in range(400)], cpu=50)
    refused(saved(tmp_path, frame), "'requests' holds numbers such as '1.234,5'")


def test_three_decimals_stay_decimals(tmp_path):
    values = [1.234, 0.517] * 200
    for separator in (";", ","):
        path = saved(tmp_path, table().assign(requests=[f"{v:.3f}" for v in values]), sep=separator)
        assert load(path).demand().tolist() == values


@pytest.mark.parametrize("column", ["host", "machine no"])
def test_names_of_resources_keep_their_zeros(tmp_path, column):
    names = ["007", "7", "0012", "1e5"]
    frame = pd.concat([table(100).assign(**{column: name, "team": "01"}) for name in names])
    path = saved(tmp_path, frame)
    named = {} if column == "host" else {"resource_column": column}
    telemetry = load(path, group_columns=["team"], **named)
    assert telemetry.resource_ids == sorted(names)
    assert telemetry.resources["team"].tolist() == ["01"] * 4
    mapped, _ = map_telemetry(path, layout="kaggle", columns={"requests": "requests", column: "resource_id"})
    assert mapped.resource_ids == sorted(names)
