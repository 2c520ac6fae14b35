"""Files as readers keep them: bad ones are refused in one line that names them, good ones are read and every repair counted."""

import gzip
import signal
import time

import numpy as np
import pandas as pd
import pytest

from support.errors import BookError, SchemaError, SourceError, TooShortError
from support.telemetry import load
from support.telemetry.reading.files import read_table

DAY = 86_400


def table(n=300, step=60, first="2026-01-05", seed=3):
    times = pd.date_range(first, periods=n, freq=f"{step}s")
    values = np.random.default_rng(seed).poisson(100, n).astype(float)
    return pd.DataFrame({"timestamp": times, "requests": values})


def changes(telemetry):
    return {r.what: r.count for r in telemetry.repairs}


def count_of(telemetry, part):
    found = [count for what, count in changes(telemetry).items() if part in what]
    assert len(found) == 1, changes(telemetry)
    return found[0]


def saved(tmp_path, frame, name="my.csv", **options):
    path = tmp_path / name
    frame.to_csv(path, index=False, **options)
    return str(path)


def refused(path, kind=BookError, **options):
    with pytest.raises(kind) as caught:
        load(str(path), **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 600, message
    assert str(path).rsplit("/", 1)[-1] in message, message
    return message


HEAD = b"timestamp,requests\n"
ROWS = table(40).to_csv(index=False).encode()

BAD = {
    "empty.csv": (b"", SourceError, "0 bytes"),
    "blanks.csv": (b"  \n \n\t\n", SourceError, "only blanks"),
    "binary.csv": (b"timestamp\0\1\2\3" * 50, SourceError, "binary"),
    "header.csv": (HEAD, SourceError, "no rows"),
    "three.csv": (
        HEAD + b"2026-01-01 00:00,1\n2026-01-01 00:01,2\n2026-01-01 00:02,3\n",
        TooShortError,
        "3 usable rows",
    ),
    "latin.csv": (ROWS.replace(b"requests", b"d\xe9bit"), SourceError, "UTF-8"),
    "table.xlsx": (ROWS, SourceError, "unknown kind"),
    "broken.csv.gz": (gzip.compress(ROWS)[:60] + b"xxxxxxxxxxxx", SourceError, "cannot be read"),
    "not-gz.csv.gz": (ROWS, SourceError, "cannot be read"),
    "broken.parquet": (b"PAR1" + ROWS + b"PAR1", SourceError, "cannot be read"),
    "not.parquet": (ROWS, SourceError, "cannot be read"),
    "ragged.csv": (ROWS + b"2026-01-05,1,2,3,4,5\n", SourceError, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes(tmp_path, name):
    content, kind, said = BAD[name]
    (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path / name, kind)


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in refused(tmp_path / "gone.csv", SourceError)
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.csv", SourceError)
    assert "is a folder" in refused(tmp_path, SourceError)


def test_empty_source():
    with pytest.raises(SourceError, match="source is empty"):
        load("  ")


def test_five_gigabytes_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "huge.csv"
    with path.open("wb") as file:
        file.truncate(5_000_000_000)
    start = time.perf_counter()
    message = refused(path, SourceError)
    assert "5.0 GB" in message and time.perf_counter() - start < 1


def test_s3_without_s3fs():
    try:
        import s3fs  # noqa: F401
    except ImportError:
        assert "s3fs" in refused("s3://bucket/my.csv", SourceError)
    else:
        pytest.skip("s3fs is installed")


def test_unknown_protocol():
    assert "cannot open" in refused("moon://bucket/my.csv", SourceError)


def test_no_numeric_column(tmp_path):
    frame = table(50).assign(requests="much")
    assert "no numeric column" in refused(saved(tmp_path, frame), SchemaError)


def test_no_timestamp_column(tmp_path):
    frame = pd.DataFrame({"a": range(30), "b": range(30)})
    assert "no column holds timestamps" in refused(saved(tmp_path, frame), SchemaError)


def test_unknown_columns_named(tmp_path):
    path = saved(tmp_path, table(50))
    for option in ("timestamp_column", "value_column", "resource_column"):
        assert "no column 'x'" in refused(path, SchemaError, **{option: "x"})
    assert "no timezone" in refused(path, SchemaError, timezone="Mars/Olympus")


def test_duplicate_timestamps(tmp_path):
    frame = table(50)
    frame.loc[7, "timestamp"] = frame.loc[6, "timestamp"]
    frame.loc[6:7, "requests"] = [10.0, 30.0]
    path = saved(tmp_path, frame)
    message = refused(path, SchemaError)
    assert "2026-01-05 00:06:00" in message and "2 rows" in message
    for how, value in (("sum", 40), ("mean", 20), ("first", 10)):
        telemetry = load(path, duplicates=how)
        assert telemetry.demand().iloc[6] == value
        assert count_of(telemetry, "share a timestamp") == 2


def test_rows_repeated_exactly_are_dropped(tmp_path):
    frame = table(50)
    path = saved(tmp_path, pd.concat([frame, frame.iloc[[4, 5]]]))
    telemetry = load(path)
    assert count_of(telemetry, "repeat another row exactly") == 2
    assert telemetry.demand().tolist() == frame["requests"].tolist()


def test_negative(tmp_path):
    frame = table(50)
    frame.loc[11, "requests"] = -5
    message = refused(saved(tmp_path, frame), SchemaError)
    assert "row 13" in message and "negative (-5)" in message  # row 1 of the file is the header


def test_garbage_among_numbers(tmp_path):
    frame = table(400).astype({"requests": object})
    frame.loc[20, "requests"] = "n/k"
    telemetry = load(saved(tmp_path, frame))
    assert count_of(telemetry, "no numbers, treated as missing") == 1
    assert telemetry.observations["quality_flag"].sum() == 1
    frame.loc[20:60, "requests"] = "n/k"
    message = refused(saved(tmp_path, frame), SchemaError)
    assert "row 22" in message and "41 such rows" in message


def test_garbage_timestamps(tmp_path):
    frame = table(60).astype({"timestamp": str})
    frame.loc[3:20, "timestamp"] = "yesterday noonish"
    message = refused(saved(tmp_path, frame), SchemaError)
    assert "row 5" in message and "18 such rows" in message
    assert "epoch" in refused(saved(tmp_path, table(60).assign(timestamp=np.arange(60))), SchemaError)


def test_single_events_are_not_a_series(tmp_path):
    frame = table(300)
    frame["timestamp"] = pd.Timestamp("2026-01-05") + pd.to_timedelta(
        np.random.default_rng(1).exponential(60, 300).cumsum(), "s"
    )
    assert "uneven" in refused(saved(tmp_path, frame), SchemaError)


def check(path, frame, **options):
    telemetry = load(str(path), **options)
    demand = telemetry.demand()
    assert demand.tolist() == frame["requests"].tolist()
    pd.testing.assert_index_equal(
        demand.index.tz_localize(None), pd.DatetimeIndex(frame["timestamp"]), check_names=False, exact=False
    )
    assert "quality_flag" not in telemetry.observations
    return telemetry


@pytest.mark.parametrize("name", ["my.csv", "my.csv.gz", "my.tsv", "my.txt", "MY.CSV"])
def test_round_trip_of_text(tmp_path, name):
    telemetry = check(saved(tmp_path, table(), name), table())
    assert changes(telemetry)["rows read"] == 300 and telemetry.step_seconds == 60 and not telemetry.synthetic


def test_round_trip_of_parquet(tmp_path):
    table().to_parquet(tmp_path / "a.parquet")
    check(tmp_path / "a.parquet", table())
    table().set_index("timestamp").to_parquet(tmp_path / "b.parquet")
    check(tmp_path / "b.parquet", table())


def test_file_address(tmp_path):
    check(f"file://{saved(tmp_path, table())}", table())


def test_semicolon_bom_crlf_tabs(tmp_path):
    check(saved(tmp_path, table(), sep=";"), table())
    check(saved(tmp_path, table(), sep="\t", name="tabs.txt"), table())
    check(saved(tmp_path, table(), encoding="utf-8-sig"), table())
    check(saved(tmp_path, table(), lineterminator="\r\n"), table())
    check(saved(tmp_path, table(), sep=";", encoding="utf-8-sig", lineterminator="\r\n"), table())


def test_unsorted(tmp_path):
    frame = table()
    telemetry = check(saved(tmp_path, frame.iloc[::-1]), frame)
    assert count_of(telemetry, "time ran backwards") == 299


def test_short_gaps_are_interpolated_flagged_and_counted(tmp_path):
    frame = table(200).assign(requests=np.arange(200.0))
    gone = [10, 50, 51, 52]
    telemetry = load(saved(tmp_path, frame.drop(index=gone)))
    assert telemetry.demand().tolist() == pytest.approx(list(range(200)))
    flags = telemetry.observations["quality_flag"].to_numpy()
    assert np.flatnonzero(flags).tolist() == gone
    assert count_of(telemetry, "missing intervals interpolated") == 4


def test_long_gaps_are_taken_from_the_nearest_day(tmp_path):
    frame = table(3 * 288, step=300).assign(requests=np.arange(3.0 * 288))
    telemetry = load(saved(tmp_path, frame.drop(index=range(300, 340))))
    demand = telemetry.demand().to_numpy()
    assert demand[300:340].tolist() == list(range(12, 52))  # the same minutes of the first day
    assert demand[340:].tolist() == list(range(340, 864))
    assert count_of(telemetry, "nearby day") == 40
    assert telemetry.observations["quality_flag"].sum() == 40


def test_missing_values_inside_rows(tmp_path):
    frame = table(100)
    frame.loc[30, "requests"] = np.nan
    telemetry = load(saved(tmp_path, frame))
    assert telemetry.demand().iloc[30] == pytest.approx(frame["requests"].iloc[[29, 31]].mean())
    assert count_of(telemetry, "rows without a usable time or value") == 1


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_epochs(tmp_path, unit):
    frame = table()
    stamps = (
        frame["timestamp"].astype("datetime64[ns]").astype("int64")
        // {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
    )
    telemetry = check(saved(tmp_path, frame.assign(timestamp=stamps)), frame)
    assert count_of(telemetry, f"epoch {unit} in UTC") == 300


@pytest.mark.parametrize(("offset", "hours"), [("Z", 0), ("+02:00", 2), ("-0530", -5.5)])
def test_offsets(tmp_path, offset, hours):
    frame = table()
    texts = frame["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%S") + offset
    telemetry = load(saved(tmp_path, frame.assign(timestamp=texts)))
    assert telemetry.demand().index[0] == pd.Timestamp("2026-01-05", tz="UTC") - pd.Timedelta(hours=hours)
    assert telemetry.demand().tolist() == frame["requests"].tolist()


def test_no_offset_is_said(tmp_path):
    assert count_of(load(saved(tmp_path, table())), "no timezone, taken as UTC") == 300


def test_clock_forward(tmp_path):
    utc = pd.date_range("2026-03-28 22:00", periods=96, freq="300s", tz="UTC")
    frame = pd.DataFrame({"timestamp": utc.tz_convert("Europe/Paris").tz_localize(None), "requests": np.arange(96.0)})
    telemetry = load(saved(tmp_path, frame), timezone="Europe/Paris")
    pd.testing.assert_index_equal(telemetry.demand().index, utc, check_names=False, exact=False)
    assert telemetry.demand().tolist() == list(range(96))


def test_clock_back_the_repeated_hour_is_dropped_and_filled(tmp_path):
    utc = pd.date_range("2026-10-24 22:00", periods=96, freq="300s", tz="UTC")  # 02:00 to 03:00 comes twice on the 25th
    frame = pd.DataFrame({"timestamp": utc.tz_convert("Europe/Paris").tz_localize(None), "requests": np.arange(96.0)})
    telemetry = load(saved(tmp_path, frame), timezone="Europe/Paris", max_gap_seconds=4 * 3600)
    pd.testing.assert_index_equal(telemetry.demand().index, utc, check_names=False, exact=False)
    assert count_of(telemetry, "hour that the clock repeats") == 24
    assert telemetry.observations["quality_flag"].sum() == 24
    assert telemetry.demand().tolist() == pytest.approx(list(range(96)))  # a straight line is interpolated exactly


@pytest.mark.parametrize("step", [10, 60, 300, 3600])
def test_cadences_with_jitter(tmp_path, step):
    frame = table(500, step=step)
    late = np.random.default_rng(4).uniform(-0.1, 0.1, 500) * step
    late[0] = 0
    jittered = frame.assign(timestamp=frame["timestamp"] + pd.to_timedelta(np.round(late, 3), "s"))
    telemetry = load(saved(tmp_path, jittered))
    assert telemetry.step_seconds == step
    assert telemetry.demand().tolist() == frame["requests"].tolist()
    assert count_of(telemetry, f"moved to the grid of {step} s") > 400


@pytest.mark.parametrize(
    "column", ["rps", "requests_per_second", "qps", "RPS", "demand (req/s)", "Requests per second", "hits/sec"]
)
def test_rates_are_multiplied_by_the_step(tmp_path, column):
    frame = table(step=300).rename(columns={"requests": column})
    telemetry = load(saved(tmp_path, frame))
    assert telemetry.metrics == ["requests"]
    assert telemetry.demand().tolist() == (frame[column] * 300).tolist()
    assert count_of(telemetry, "requests/s and multiplied") == 300


@pytest.mark.parametrize("column", ["requests/shard", "bytes/s", "requests per session", "frequency/s"])
def test_what_is_no_rate_of_requests_is_left_as_it_is(tmp_path, column):
    frame = table(step=300).rename(columns={"requests": column})
    assert load(saved(tmp_path, frame)).demand().tolist() == frame[column].tolist()


def test_resource_column(tmp_path):
    frame = pd.concat([table(seed=1).assign(host="a"), table(seed=2).assign(host="b")])
    telemetry = load(saved(tmp_path, frame))
    assert telemetry.resource_ids == ["a", "b"] and telemetry.resources.index.tolist() == ["a", "b"]
    assert telemetry.demand("b").tolist() == table(seed=2)["requests"].tolist()
    assert telemetry.demand().tolist() == (table(seed=1)["requests"] + table(seed=2)["requests"]).tolist()


def test_synonyms_and_named_columns(tmp_path):
    frame = table().rename(columns={"timestamp": "ds", "requests": "hits"})
    assert load(saved(tmp_path, frame)).metrics == ["requests"]
    frame = pd.DataFrame({"when": table()["timestamp"], "widgets": table()["requests"], "CPU": 5.0})
    telemetry = load(saved(tmp_path, frame), value_column="widgets")
    assert telemetry.metrics == ["requests"] and telemetry.demand().tolist() == table()["requests"].tolist()
    assert load(saved(tmp_path, frame)).metrics == ["cpu_utilization"]


def test_step_seconds_aggregates(tmp_path):
    telemetry = load(saved(tmp_path, table(360)), step_seconds=3600.0)
    assert telemetry.demand().tolist() == table(360)["requests"].to_numpy().reshape(6, 60).sum(axis=1).tolist()


def test_an_interrupt_while_a_file_is_read_is_an_interrupt(tmp_path):
    """pandas' tokenizer reports a signal as an error of parsing; whatever the moment, it stays an interrupt."""
    table(200_000, step=10).to_csv(tmp_path / "my.csv", index=False)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for delay in np.linspace(0.001, 0.2, 25):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(KeyboardInterrupt):
                read_table(str(tmp_path / "my.csv"))
                time.sleep(5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fleet_table():
    times = pd.date_range("2026-01-05", periods=48, freq="1h")
    parts = [
        pd.DataFrame(
            {"timestamp": times, "vm": vm, "cpu_utilization": np.arange(48.0) % 30, "team": team, "tier": " gold"}
        )
        for vm, team in (("b", "search"), ("a", "shop"))
    ]
    return pd.concat(parts, ignore_index=True)


def test_group_columns_become_the_table_of_resources(tmp_path):
    fleet_table().to_csv(tmp_path / "fleet.csv", index=False)
    made = load(str(tmp_path / "fleet.csv"), resource_column="vm", group_columns=["team", "tier"])
    assert made.resources.to_dict() == {"team": {"a": "shop", "b": "search"}, "tier": {"a": "gold", "b": "gold"}}
    assert made.metrics == ["cpu_utilization"]


def test_sizes_of_machines_are_read_where_each_has_one(tmp_path):
    frame = fleet_table().assign(vCPUs=lambda t: t["vm"].map({"a": 2, "b": 8}), memory_gib=np.arange(96.0))
    telemetry = load(saved(tmp_path, frame), resource_column="vm", group_columns=["team"])
    assert telemetry.resources.to_dict() == {"team": {"a": "shop", "b": "search"}, "vcpu": {"a": 2, "b": 8}}
    assert count_of(telemetry, "'vCPUs' taken as vcpu of each resource") == 96
    assert count_of(telemetry, "'memory_gib' is not one number for 'a'") == 2
    assert telemetry.metrics == ["cpu_utilization"] and not any("not used" in what for what in changes(telemetry))


def test_a_column_of_sizes_is_a_size_only_where_it_is_nothing_else(tmp_path):
    frame = fleet_table().assign(vcpu=4, load=np.arange(96.0) % 7).drop(columns="cpu_utilization")
    path = saved(tmp_path, frame[["timestamp", "vm", "vcpu", "load"]])
    telemetry = load(path, resource_column="vm")  # neither column has a name of a metric
    assert count_of(telemetry, "column 'load' taken as requests") == 96 and telemetry.resources["vcpu"].tolist() == [
        4,
        4,
    ]
    grouped = load(path, resource_column="vm", group_columns=["vcpu"])
    assert grouped.resources.to_dict() == {"vcpu": {"a": "4", "b": "4"}}
    cores = load(
        saved(tmp_path, frame[["timestamp", "vm"]].assign(cores=np.arange(96.0)), "cores.csv"), resource_column="vm"
    )
    assert count_of(cores, "column 'cores' taken as requests") == 96 and not any(
        "not one number" in w for w in changes(cores)
    )


@pytest.mark.parametrize(
    ("change", "columns", "says"),
    [
        (lambda t: t, ["planet"], "no group column 'planet'; there are"),
        (
            lambda t: t.assign(team=["x"] * 50 + ["y"] * 46),
            ["team"],
            "resource 'a' has 2 values in the group column 'team'",
        ),
        (lambda t: t.assign(team=None), ["team"], "resource 'a' has no value in the group column 'team'"),
    ],
)
def test_groups_that_make_no_sense_are_refused(tmp_path, change, columns, says):
    change(fleet_table()).to_csv(tmp_path / "fleet.csv", index=False)
    with pytest.raises(SchemaError, match=says):
        load(str(tmp_path / "fleet.csv"), resource_column="vm", group_columns=columns)


def test_a_sum_counts_equal_rows_and_leaves_what_is_missing_missing(tmp_path):
    rng = np.random.default_rng(5)
    parts = [table(40).assign(requests=rng.integers(1, 4, 40), cpu=rng.integers(20, 23, 40)) for _ in range(3)]
    frame = pd.concat(parts, ignore_index=True)
    frame.loc[frame["timestamp"] == frame["timestamp"].iloc[7], "cpu"] = np.nan
    assert frame.duplicated().sum() > 5
    telemetry = load(saved(tmp_path, frame), duplicates="sum", fill="none")
    assert count_of(telemetry, "combined by sum") == 120
    for at, row in telemetry.observations.droplevel("resource_id").tz_localize(None).iterrows():
        for metric, column in (("requests", "requests"), ("cpu_utilization", "cpu")):
            given = [v for t, v in zip(frame["timestamp"], frame[column], strict=True) if t == at and v == v]
            assert row[metric] == pytest.approx(sum(given) if given else np.nan, nan_ok=True), (at, metric)


def test_a_name_of_a_zone_is_no_offset_unless_the_place_is_given(tmp_path):
    place = "America/Los_Angeles"  # its clock goes forward within these hours
    utc = pd.date_range("2026-03-08 03:00", periods=24, freq="h", tz="UTC")
    local = [t.tz_convert(place) for t in utc]
    frame = pd.DataFrame(
        {"timestamp": [f"{t:%Y-%m-%d %H:%M:%S} {t.tzname()}" for t in local], "requests": 1.0 * np.arange(24)}
    )
    message = refused(saved(tmp_path, frame), SchemaError)
    assert "row 2" in message and "PST" in message
    made = load(saved(tmp_path, frame), timezone=place)
    assert count_of(made, "abbreviations such as PST not used") == 24
    assert made.demand().index.tolist() == utc.tolist() and made.demand().tolist() == list(range(24))


@pytest.mark.parametrize(
    ("written", "hours"),
    [
        ("{:%Y-%m-%dT%H:%M:%Sz}", 0), ("{:%Y-%m-%d %H:%M:%S}-5:00", -5), ("{:%Y-%m-%d %H:%M} UTC-5:00", -5),
        ("{:%Y-%m-%d %H:%M} GMT+1", 1), ("{:%a %b %d %Y %H:%M:%S} GMT+0100", 1), ("{:%a %b %d %H:%M:%S} UTC {:%Y}", 0),
        ("{:%Y%m%dT%H%M%S}+0530", 5.5),
    ],
)  # fmt: skip
def test_offsets_as_they_are_written_beat_the_timezone_given(tmp_path, written, hours):
    clock = pd.date_range("2026-01-13", periods=24, freq="h")
    frame = pd.DataFrame({"timestamp": [written.format(t, t) for t in clock], "requests": 1.0 * np.arange(24)})
    made = load(saved(tmp_path, frame), timezone="Asia/Tokyo")
    assert count_of(made, "timezone Asia/Tokyo not used") == 24
    wanted = clock.tz_localize("UTC") - pd.Timedelta(hours=hours)
    assert made.demand().index.tolist() == wanted.floor("h").tolist()


def test_a_clock_before_its_date_carries_no_offset(tmp_path):
    clock = pd.date_range("2026-01-13", periods=24, freq="h")
    frame = pd.DataFrame({"timestamp": clock.strftime("%H:%M %d-%m-%Y"), "requests": 1.0})
    made = load(saved(tmp_path, frame), timezone="Asia/Tokyo")
    assert made.demand().index.tolist() == (clock.tz_localize("UTC") - pd.Timedelta(hours=9)).tolist()


def test_counts_per_ten_minutes_beside_counts_per_five_are_refused_and_not_doubled(tmp_path):
    fast, slow = table(200, step=300).assign(host="fast"), table(100, step=600).assign(host="slow")
    mixed = pd.concat([fast, slow])
    assert "50 % of the intervals of 300 s are missing for slow" in refused(saved(tmp_path, mixed), SchemaError)
    assert load(saved(tmp_path, mixed), fill="zero").demand().sum() == mixed["requests"].sum()  # said by the reader
    holes = pd.concat(
        [fast, fast.iloc[[0, 2]].assign(host="young")]
    )  # two rows with a hole between them are no cadence
    assert len(load(saved(tmp_path, holes)).series("requests", "young")) == 3
