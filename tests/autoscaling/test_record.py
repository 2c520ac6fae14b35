"""A record that is written in several runs: each part keeps the date, commit and versions of its own run."""

import json
import re
from importlib.metadata import version

import pytest

from benchmarks import record


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path / "benchmarks" / "results"


def test_a_part_is_put_beside_what_an_earlier_run_wrote(folder):
    record.store("speed", {"engine": {"best_s": 1.0}}, ("numpy",), quiet=True)
    before = json.loads((folder / "speed.json").read_text())
    assert before["versions"]["numpy"] == version("numpy")
    before |= {"date": "2000-01-01", "commit": "old"}
    (folder / "speed.json").write_text(json.dumps(before))
    record.store_part("speed", "optima", {"best_s": 2.0}, ("numba",))
    after = json.loads((folder / "speed.json").read_text())
    added = after["results"].pop("optima")
    assert after == before  # date, commit, versions and results of the earlier run
    assert added.pop("best_s") == 2.0 and list(added) == ["stamp"]
    assert added["stamp"]["versions"]["numba"] == version("numba") and added["stamp"]["date"] > "2026"
    assert [file.name for file in folder.iterdir()] == ["speed.json"]


def test_a_stamp_says_when_which_commit_and_where():
    said = record.stamp()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", said["date"]) and set(said) == {"date", "commit", "machine"}
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", said["commit"]) and said["machine"]["cores"] >= 1


def test_a_part_of_no_record_is_refused(folder):
    with pytest.raises(FileNotFoundError):
        record.store_part("speed", "optima", {}, ())
