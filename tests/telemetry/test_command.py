"""`python -m support.telemetry`: what it writes is what the generator makes; it fails in one sentence and leaves nothing."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from support.errors import SourceError
from support.telemetry import load
from support.telemetry.__main__ import main
from support.telemetry.generation.generator import stream, synthetic
from support.telemetry.generation.progress import with_progress
from support.telemetry.storage.export import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(line, capsys):
    code = main(line.split())
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("out", ["a.parquet", "a.csv", "a.csv.gz", "folder"])
def test_the_file_holds_what_the_generator_makes(out, capsys):
    line = f"generate --preset banking --start 2024-12-01 --end 2025-01-31 --n-resources 4 --anomaly-rate 0.1 --seed 5 --out {out}"
    code, said, progress = run(line, capsys)
    assert code == 0
    wanted = load("synthetic:banking", seed=5, start="2024-12-01", end="2025-01-31", n_resources=4, anomaly_rate=0.1)
    made = read(out)
    pd.testing.assert_frame_equal(made.observations, wanted.observations, check_exact=True, check_freq=False)
    pd.testing.assert_frame_equal(made.labels, wanted.labels)
    assert made.provenance == wanted.provenance and made.synthetic and len(made.labels) > 0
    assert f"wrote {4 * 62:,} rows of 4 resources (known anomalies: {len(made.labels)}): " in said
    assert said.splitlines()[0] == f"generating banking with seed 5 into {out}"
    assert said.splitlines()[-1].startswith("next: ") and "100 % of 4 resources" in progress
    namespace = {}
    exec(said.splitlines()[-1].removeprefix("next: "), namespace)  # the next step it names works
    assert len(namespace["telemetry"].observations) == 248


def test_layout_and_partition_are_passed_on(capsys):
    line = "generate --preset cloud --days 40 --step-seconds 86400 --n-resources 3 --layout flat --partition utc_month --out f"
    assert run(line, capsys)[0] == 0
    assert len(list(Path("f").glob("utc_month=*/part-00000.parquet"))) == 2
    columns = set(pd.read_parquet("f").columns)
    assert {"provider", "cost_usd", "is_holiday", "timestamp", "resource_id"} <= columns


def test_the_name_is_made_from_the_preset_and_an_earlier_run_is_kept(capsys):
    line = "generate --preset web --days 1 --format csv"
    assert run(line, capsys)[0] == 0
    before = Path("web.csv").read_bytes()
    code, _, error = run(f"{line} --seed 8", capsys)
    assert code == 2 and error.splitlines()[-1].startswith("error: web.csv: exists.")
    assert Path("web.csv").read_bytes() == before
    assert run(f"{line} --seed 8 --overwrite", capsys)[0] == 0
    assert Path("web.csv").read_bytes() != before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("generate --preset nope", "nope: no such preset"),
        ("generate --preset web --days 0", "at least 1 day"),
        ("generate --preset web --start yesterdayish", "is no date"),
        ("generate --preset workload --workload toaster", "toaster"),
        ("generate --preset web --out no/where/a.csv", "there is no folder"),
        ("generate --preset web --out a.csv --format parquet", "agree"),
        ("generate --preset web --out a.xlsx", "unknown kind"),
        ("generate --preset web --push ada/fleet", "--format huggingface"),
        ("generate --preset web --format huggingface --overwrite", "new folder only"),
        ("check no-such.csv", "no such file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_on_stderr_and_code_2(line, said, capsys):
    code, _, error = run(line, capsys)
    assert code == 2 and said in error and error.count("\n") == 1 and error.startswith("error: ")
    assert list(Path().iterdir()) == []


def test_a_hugging_face_dataset(capsys, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra: scale")
    code, said, _ = run("generate --preset events --days 2 --n-resources 2 --format huggingface --out hub", capsys)
    assert code == 0 and "wrote 2,016 train, 432 validation, 432 test examples and README.md" in said
    loaded = datasets.load_dataset("hub", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == {"train": 2016, "validation": 432, "test": 432}
    assert "license: cc0-1.0" in Path("hub/README.md").read_text()
    line = "generate --preset fleet --days 7 --n-resources 2 --anomaly-rate 0.05 --format huggingface --form anomaly_windows --out w"
    assert run(line, capsys)[0] == 0
    assert "tabular-classification" in Path("w/README.md").read_text()
    assert set(datasets.load_dataset("w", cache_dir=str(tmp_path / "cache"))["train"]["label"]) == {0, 1}


def test_traces_are_listed(capsys):
    code, said, _ = run("traces", capsys)
    assert code == 0 and any(line.startswith("worldcup98  ") for line in said.splitlines())


def test_a_file_is_checked_and_drawn(capsys):
    times = pd.date_range("2026-01-01", periods=600, freq="1h")
    pd.DataFrame({"timestamp": times, "cpu_utilization": range(600)}).assign(
        cpu_utilization=lambda t: 50 + 30 * (t.timestamp.dt.hour > 8)
    ).drop(index=7).to_csv("mine.csv", index=False)
    code, said, _ = run("check mine.csv --figure o.png", capsys)
    assert code == 0 and "600 rows of 1 resource every 3600 s" in said and "interpolated" in said
    daily = next(line for line in said.splitlines() if line.startswith("daily cycle"))
    assert daily.split()[3] == "100" and "verdict: " in said
    assert Path("o.png").read_bytes().startswith(b"\x89PNG")
    code, _, complaint = run("check mine.csv --figure o.xyz", capsys)
    assert code == 2 and "o.xyz: the figure cannot be written" in complaint


def test_an_own_file_is_checked_with_its_resources(capsys):
    assert run("generate --preset fleet --days 1 --n-resources 3 --out f", capsys)[0] == 0
    code, said, _ = run("check f", capsys)  # `load` does not read folders, `read` does
    assert code == 0 and "864 rows of 3 resources" in said


def test_interrupted_and_terminated_runs_leave_no_file(tmp_path):
    line = "-m support.telemetry generate --preset workload --days 300 --n-resources 4000 --out"
    stops = {
        "int.csv": (signal.SIGINT, ".int.csv.*.partial/table"),
        "term.csv": (signal.SIGTERM, ".term.csv.*.partial"),
    }
    runs = {
        out: subprocess.Popen(
            [sys.executable, *line.split(), out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
        )
        for out in stops
    }  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        for out, (stop, begun) in stops.items():
            while not list(tmp_path.glob(begun)) and time.monotonic() < deadline and runs[out].poll() is None:
                time.sleep(0.02)
            assert list(tmp_path.glob(begun))
            runs[out].send_signal(stop)
        for process in runs.values():
            _, error = process.communicate(timeout=60)
            assert process.returncode == 130
            assert error.splitlines()[-1] == "interrupted: nothing was written"
    finally:
        for process in runs.values():
            process.kill()
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_says_the_share_that_is_done_and_passes_every_block_on():
    blocks = list(stream("fleet", seed=1, days=1, n_resources=4, rows_per_block=288))
    plain, terminal = io.StringIO(), Terminal()
    assert list(with_progress(iter(blocks), n_resources=4, file=plain)) == blocks
    lines = plain.getvalue().splitlines()
    assert lines[0].startswith("25 % of 4 resources, 288 rows, ")
    assert lines[-1].startswith("100 % of 4 resources, 1,152 rows, ") and lines[-1].endswith(" 0 s left")
    list(with_progress(iter(blocks), file=terminal))
    assert terminal.getvalue().startswith("\r288 rows, ") and terminal.getvalue().endswith("\n")
    assert "%" not in terminal.getvalue()


def test_an_error_in_a_block_is_passed_on():
    def blocks():
        yield from stream("web", seed=1, days=1)
        raise SourceError("broken")

    with pytest.raises(SourceError, match="broken"):
        list(with_progress(blocks(), file=Terminal()))


def test_options_from_a_file_and_the_command_line_wins(capsys):
    Path("fleet.yml").write_text(
        "preset: cloud\nstart: 2026-01-05\ndays: 2\nn-resources: 6\nstep_seconds: 3600\nproviders: AWS,GCP\nseed: 3\nout: a.parquet\n"
    )
    code, said, _ = run("generate --config fleet.yml --seed 4 --n-resources 5", capsys)
    assert code == 0 and "seed 4" in said
    wanted = synthetic(
        "cloud", seed=4, start="2026-01-05", days=2, n_resources=5, step_seconds=3600.0, providers="AWS,GCP"
    )
    pd.testing.assert_frame_equal(read("a.parquet").observations, wanted.observations, check_freq=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sede: 3", "no option 'sede'"),
        ("config: a", "no option 'config'"),
        ("3", "holds no options"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_file_of_options_that_makes_no_sense(text, says, capsys):
    Path("bad.yml").write_text(text)
    code, _, err = run("generate --config bad.yml", capsys)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1
    assert run("generate --config none.yml", capsys)[0] == 2
