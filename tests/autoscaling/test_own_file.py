"""Chapters 12, 13 and 15 on files they have never seen: every source they name is read, and nothing is said that is not so."""

import gzip
import os
import re

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from book.chapters import ROOT, to_notebook
from support.errors import SchemaError

CHAPTERS = ["12_autoscaling_policies", "13_decisions_under_uncertainty", "15_case_study"]


def loaded(name, **given):
    """What the chapter has after the cell that reads the data, with these parameters."""
    space = {}
    for cell in to_notebook(ROOT / "notebooks" / f"{name}.md").cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
            if "parameters" in cell.metadata.get("tags", []):
                assert set(given) <= set(space)
                space |= given
            if "load(source" in cell.source:
                return space
    raise AssertionError(f"{name} loads nothing")


def hours(days, level=900.0, cycle=24, depth=0.5):
    """Hourly values with a cycle of so many hours."""
    index = pd.date_range("2026-03-02", periods=24 * days, freq="1h", name="time")
    swing = 1 + depth * np.sin(2 * np.pi * (np.arange(len(index)) - 8) / cycle)
    return pd.DataFrame({"requests": np.random.default_rng(4).poisson(level * swing)}, index=index).reset_index()


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_compressed_access_log_is_counted_line_by_line(name, tmp_path):
    """The source `log:` takes no duplicates, and a suffix of .gz does not make it a table."""
    minutes = pd.date_range("2026-03-02", periods=700, freq="1min")
    lines = [
        f'10.0.0.1 - - [{m:%d/%b/%Y:%H:%M:%S} +0000] "GET / HTTP/1.1" 200 5\n'
        for m in minutes
        for _ in range(1 + m.minute % 3)
    ]
    with gzip.open(tmp_path / "access.log.gz", "wt") as file:
        file.writelines(lines)
    counted = loaded(name, source=f"log:{tmp_path / 'access.log.gz'}")["telemetry"].demand()
    by_hand = pd.Series(1 + minutes.minute % 3, index=minutes.tz_localize("UTC"))
    assert len(counted) >= len(by_hand) - 2  # the first and the last minute of a log may be recorded in part
    assert (counted == by_hand[counted.index]).all()


@pytest.mark.parametrize("name", CHAPTERS)
def test_duplicates_are_treated_as_said_whatever_the_suffix_looks_like(name, tmp_path):
    table = hours(30)
    path = tmp_path / "DUPS.CSV"
    pd.concat([table, table.iloc[400:440].assign(requests=7)]).sort_values("time").to_csv(path, index=False)
    with pytest.raises(SchemaError, match="more than once"):
        loaded(name, source=str(path))
    demand = loaded(name, source=str(path), duplicates="sum")["telemetry"].demand()
    assert demand.sum() == table["requests"].sum() + 40 * 7
    assert demand.iloc[400:440].to_list() == [v + 7 for v in table["requests"].iloc[400:440]]


def test_chapter_13_says_what_demand_is_and_what_a_boot_delay_became(tmp_path):
    hours(30, level=40).rename(columns={"requests": "cpu_utilization"}).to_csv(tmp_path / "cpu.csv", index=False)
    notes = "; ".join(loaded(CHAPTERS[1], source=str(tmp_path / "cpu.csv"))["notes"])
    assert "cpu_utilization is no count of requests" in notes and "300 s is rounded up to 1 tick of 3600 s" in notes
    hours(30).to_csv(tmp_path / "counts.csv", index=False)
    assert "no count" not in str(loaded(CHAPTERS[1], source=str(tmp_path / "counts.csv"))["notes"])


def test_the_case_study_of_hours_names_a_rival_no_fleet_and_no_minutes(tmp_path, monkeypatch):
    """The choice is the rule at 70 % itself, the ticks are hours, and nobody said how many servers run."""
    slow = hours(40, level=90_000.0, cycle=168, depth=0.8)  # the rule at 70 % can follow it, and costs less than a peak
    slow.to_csv(tmp_path / "my.csv", index=False)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    chosen_from = {"policies": ["static", "reactive 70 %"], "past_days": 24, "test_days": 10, "stress_days": 1}
    made = papermill.execute_notebook(
        str(ROOT / "notebooks" / "15_case_study.ipynb"), str(tmp_path / "out.ipynb"),
        {"source": str(tmp_path / "my.csv")} | chosen_from, progress_bar=False,
    )  # fmt: skip
    outputs = [o for c in nbformat.from_dict(made).cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    said = [str(o.data.get("text/html") or o.data.get("text/markdown", "")) for o in outputs]
    (memo,) = [text for text in said if "To: on-call" in text]
    (decision,) = [text for text in said if text.startswith("**Decision")]
    assert "scales by **reactive 70 %**" in memo
    assert "than reactive 70 %" not in memo and re.search(r"% (less|more) than static", memo)
    (claims,) = [text for text in said if "What this chapter showed" in text]
    assert "saves against static" in claims and "saves against reactive 70 %" not in claims
    assert "The present fleet is not known" in decision and "present fleet is not known" in memo
    assert "now there are" not in memo
    assert any("rounded up to 1 tick of 3600 s" in text for text in said)
    (cells,) = [text for text in said if "Cells won" in text]
    won = re.search(r"Cells won: (.*?), by ", cells)[1]
    assert sum(int(n) for n in re.findall(r" (\d+)(?:,|$)", won)) == 2 * 6  # no boot or one of an hour, six prices
    (budget,) = [text for text in said if "budget of these days" in text]
    assert "0.24 bad ticks" in budget and "minute" not in budget  # 240 hours, of which 0.1 % may be bad
