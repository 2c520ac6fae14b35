"""The machinery: conversion, what a chapter depends on, execution, what may reach a page, dependencies."""

import hashlib
import json
import re
import shutil
import sys
import textwrap
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output
from packaging.requirements import Requirement

from book import execute as execution
from book.chapters import ROOT, Chapter, chapters, to_notebook
from book.environment import environment_text
from book.outputs import output_problems
from support.errors import BookError

CHAPTER = """\
---
title: Tiny
jupytext:
  formats: ipynb,md:myst
kernelspec:
  name: python3
  display_name: Python 3
  language: python
---

# Tiny

```{code-cell} ipython3
:tags: [hide-input]

hidden = False
if hidden:  # seen by the dependency scan, not run
    from support.alpha import one
```

```{code-cell} ipython3
:tags: [parameters]

n: int = 2  # count
profile: str = "explore"  # explore, smoke, publication
```

```{code-cell} ipython3
print(n, profile)
```
"""


@pytest.fixture
def house(tmp_path, monkeypatch) -> Chapter:
    """A little book of one chapter that imports support.alpha, which imports support.deep.inner but not support.other."""
    for name, text in {
        "support/__init__.py": "",
        "support/alpha.py": "from support.deep.inner import two\none = two - 1\n",
        "support/other.py": "three = 3\n",
        "support/deep/__init__.py": "",
        "support/deep/inner.py": "two = 2\n",
        "support/deep/unused.py": "four = 4\n",
        "support/deep/table.csv": "a\n1\n",
        "requirements.lock": "",
        "notebooks/01_tiny.md": CHAPTER,
        "book/publication.yml": "",
        "tests/smoke.yml": "01_tiny: {n: 1}",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    chapter = Chapter("01_tiny", tmp_path)
    nbformat.write(to_notebook(chapter.source), chapter.notebook)
    monkeypatch.setattr(execution, "ROOT", tmp_path)
    return chapter


def edit(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_conversion_is_deterministic_and_keeps_front_matter(house):
    first, second = (nbformat.writes(to_notebook(house.source)) for _ in range(2))
    assert first == second
    assert to_notebook(house.source).metadata["title"] == "Tiny"


def test_fingerprint_changes_with_what_the_chapter_reaches_and_nothing_else(house):
    before = house.fingerprint({})
    for unrelated in ("support/other.py", "support/deep/unused.py"):
        edit(house.root / unrelated, "\n# changed")
        assert house.fingerprint({}) == before, unrelated
    for related in (
        "support/alpha.py",
        "support/deep/inner.py",
        "support/deep/table.csv",
        "support/__init__.py",
        "requirements.lock",
        "notebooks/01_tiny.md",
    ):
        edit(house.root / related, "\n# changed")
        assert house.fingerprint({}) != before, related
        before = house.fingerprint({})
    assert house.fingerprint({"n": 3}) != before


def test_fingerprint_changes_with_the_recorded_results_that_the_chapter_shows(house):
    edit(house.source, '\n```{code-cell} ipython3\nspeed = recorded("speed")\n```\n')
    results = house.root / "benchmarks" / "results"
    results.mkdir(parents=True)
    seen = {house.fingerprint({})}
    for name, text in (("other", "1"), ("speed", "1"), ("speed", "2")):
        (results / f"{name}.json").write_text(text)
        seen.add(house.fingerprint({}))
    assert len(seen) == 3  # none, the first and the second record; another record changes nothing


def test_real_chapters_reach_what_they_use_and_not_what_they_do_not():
    reach = {c.name: {p.relative_to(ROOT).as_posix() for p in c.support_files()} for c in chapters()}
    assert "support/telemetry/schema.py" in reach["01_data_generation"]
    assert not any("autoscaling" in p or "forecasting" in p for p in reach["01_data_generation"])
    assert "support/autoscaling/simulate.py" in reach["12_autoscaling_policies"]
    assert not any("autoscaling" in p for p in reach["06_statistical_forecasting"])


def test_execution_runs_once_then_keeps_then_reruns_after_a_change(house):
    first = execution.execute(house, "smoke")
    assert first.problems == () and not first.reused
    done = nbformat.read(house.root / "_build/smoke/01_tiny.ipynb", as_version=4)
    assert "1 smoke" in str(done.cells[-1].outputs)
    assert execution.execute(house, "smoke").reused
    house.source.write_text(CHAPTER.replace("print(n, profile)", "print(n, profile, 'again')"))
    nbformat.write(to_notebook(house.source), house.notebook)
    assert not execution.execute(house, "smoke").reused
    assert [p.name for p in (house.root / "_build/smoke").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; sys.stderr.write('stray')", "writes to stderr"),
        ("import warnings; warnings.warn('old')", "writes to stderr"),
        ("object()", "bare repr"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_run_that_would_spoil_the_page_fails_and_keeps_the_last_good_one(house, code, told):
    assert execution.execute(house, "smoke").problems == ()
    house.source.write_text(CHAPTER.replace("print(n, profile)", code))
    nbformat.write(to_notebook(house.source), house.notebook)
    result = execution.execute(house, "smoke")
    assert told in result.problems[0]
    assert "1 smoke" in (house.root / "_build/smoke/01_tiny.ipynb").read_text()
    assert (house.root / "_build/failed/01_tiny.ipynb").exists()


def test_a_kernel_that_does_not_start_is_tried_once_more(house, monkeypatch, capsys):
    whole, died = execution._command, "raise SystemExit('RuntimeError: Kernel died before replying to kernel_info')"
    commands = [lambda *given: [sys.executable, "-c", died], whole]
    monkeypatch.setattr(execution, "_command", lambda *given: commands.pop(0)(*given))
    assert execution.execute(house, "smoke").problems == () and not commands
    assert "trying once more" in capsys.readouterr().out
    commands = [lambda *given: [sys.executable, "-c", died]] * 2
    assert "Kernel died" in execution.execute(house, "smoke", force=True).problems[0] and not commands


def test_the_source_is_what_runs_where_the_notebook_made_from_it_is_older_or_lacks(house, capsys):
    """Else the old text would run and be recorded under the fingerprint of the new one, and never be run again."""
    house.source.write_text(CHAPTER.replace("print(n, profile)", "print(n, profile, 'edited')"))
    assert execution.execute(house, "smoke").problems == ()
    page = house.root / "_build/smoke/01_tiny.ipynb"
    assert "1 smoke edited" in str(nbformat.read(page, as_version=4).cells[-1].outputs)
    assert "written from its source" in capsys.readouterr().out
    house.notebook.unlink()
    assert execution.execute(house, "smoke").reused and house.notebook.exists()


@pytest.mark.parametrize("record", ["", '{"name": "01_tiny", "seco', "null", None])
def test_a_page_whose_record_is_lost_or_cut_off_is_run_again(house, record):
    assert execution.execute(house, "smoke").problems == ()
    file = house.root / "_build/smoke/01_tiny.json"
    whole = file.read_text()
    file.unlink() if record is None else file.write_text(record)
    assert not execution.execute(house, "smoke").reused
    assert set(json.loads(file.read_text())) == set(json.loads(whole))
    assert execution.execute(house, "smoke").reused


def test_an_interruption_between_page_and_record_leaves_no_record_that_vouches_for_another_page(house, monkeypatch):
    assert execution.execute(house, "smoke").problems == ()
    house.source.write_text(CHAPTER.replace("print(n, profile)", "print(n, profile, 'again')"))

    def interrupt(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(execution, "asdict", interrupt)
        execution.execute(house, "smoke")
    house.source.write_text(CHAPTER)  # back to what the first record is of, while the page is of the edit
    assert not execution.execute(house, "smoke").reused
    assert [p.name for p in (house.root / "_build/smoke").iterdir() if p.name.startswith(".")] == []


def test_a_chapter_that_cannot_start_is_named_and_the_others_run(house, monkeypatch, capsys):
    names = {"02_syntax": CHAPTER.replace("print(n, profile)", "print(n"), "03_misspelt": CHAPTER}
    for name, text in names.items():
        (house.root / f"notebooks/{name}.md").write_text(text)
    (house.root / "tests/smoke.yml").write_text("03_misspelt: {nn: 1}")
    known = [Chapter(name, house.root) for name in (*names, "01_tiny")]
    monkeypatch.setattr(execution, "chapters", lambda: known)
    assert execution.main(["--profile", "smoke"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"02_syntax .*FAILED\n +SyntaxError", told) and re.search(r"01_tiny .*done", told)
    assert re.search(r"03_misspelt .*FAILED\n +BookError: .*no parameter nn", told) and "2 of 3 chapters failed" in told


def test_a_misspelt_parameter_is_refused(house):
    (house.root / "tests/smoke.yml").write_text("01_tiny: {nn: 1}")
    with pytest.raises(BookError, match="no parameter nn"):
        execution.execute(house, "smoke")


def test_an_unavailable_trace_is_replaced_by_its_twin_and_said(house, monkeypatch, capsys):
    edited = CHAPTER.replace("n: int = 2  # count", 'n: int = 2  # count\nsource: str = "synthetic"  # any source')
    house.source.write_text(edited)
    nbformat.write(to_notebook(house.source), house.notebook)
    (house.root / "book/publication.yml").write_text("01_tiny: {source: worldcup98}")
    monkeypatch.setattr(execution, "trace_available", lambda source: False)
    assert execution.given_parameters(house, "publication")["source"] == "synthetic:worldcup98"
    assert "synthetic twin" in capsys.readouterr().out
    monkeypatch.setattr(execution, "trace_available", lambda source: True)
    assert execution.given_parameters(house, "publication")["source"] == "worldcup98"


def test_the_twins_are_those_of_a_machine_without_traces_and_have_a_folder_of_their_own(house, monkeypatch, tmp_path):
    mirror = tmp_path / "mirror"  # of which worldcup98 could be read
    (mirror / "worldcup98").mkdir(parents=True)
    (mirror / "worldcup98" / "invocation_count.csv").write_text("a\n1\n")
    digest = hashlib.sha256(b"a\n1\n").hexdigest()
    (mirror / "registry.csv").write_text(
        "dataset,file,url,sha256,description,licence\n"
        f"worldcup98,invocation_count.csv,https://example.org,{digest},requests,none\n"
    )
    monkeypatch.setenv("BOOK_DATA", str(mirror))
    monkeypatch.setattr(execution, "chapters", lambda: [house])
    (house.root / "book/publication.yml").write_text("01_tiny: {source: worldcup98}")
    house.source.write_text(
        CHAPTER.replace("n: int = 2  # count", "n: int = 2\nsource: str = 'x'").replace("print(n, ", "print(source, ")
    )
    nbformat.write(to_notebook(house.source), house.notebook)
    said = {}
    for profile, folder in (("publication", "executed"), ("twins", "twins")):
        assert execution.main(["--profile", profile]) == 0
        said[profile] = str(
            nbformat.read(house.root / "_build" / folder / "01_tiny.ipynb", as_version=4).cells[-1].outputs
        )
    assert "worldcup98 publication" in said["publication"] and "synthetic" not in said["publication"]
    assert "synthetic:worldcup98 publication" in said["twins"]


def test_without_a_twin_the_chapter_runs_as_it_is_written_and_nothing_is_judged(house, monkeypatch, capsys):
    edited = CHAPTER.replace("n: int = 2  # count", 'n: int = 2  # count\nsource: str = "synthetic"  # any source')
    house.source.write_text(edited)
    nbformat.write(to_notebook(house.source), house.notebook)
    (house.root / "book/publication.yml").write_text("01_tiny: {source: 'appserver-traffic:hourly', n: 3}")
    monkeypatch.setattr(execution, "trace_available", lambda source: False)
    assert execution.given_parameters(house, "publication") == {"profile": "explore"}
    assert "appserver-traffic:hourly cannot be had" in capsys.readouterr().out


def test_a_second_trace_without_a_twin_drops_only_what_is_given_for_it(house, monkeypatch, capsys):
    named = ("source", "llm_source", "llm_days", "stress_days")
    lines = "\n".join(f'{name}: str = "synthetic"  # anything' for name in named)
    house.source.write_text(CHAPTER.replace("n: int = 2  # count", f"n: int = 2  # count\n{lines}"))
    nbformat.write(to_notebook(house.source), house.notebook)
    (house.root / "book/publication.yml").write_text(
        "01_tiny: {llm_source: azure-llm-2023, llm_days: 1, n: 3, source: worldcup98, stress_days: 2}"
    )
    there = {"worldcup98"}
    monkeypatch.setattr(execution, "trace_available", lambda source: source in there)
    sizes = {"n": 3, "stress_days": 2, "profile": "explore"}
    assert execution.given_parameters(house, "publication") == sizes | {"source": "worldcup98"}
    assert "azure-llm-2023 cannot be had" in capsys.readouterr().out
    there.clear()
    assert execution.given_parameters(house, "publication") == sizes | {"source": "synthetic:worldcup98"}
    there |= {"worldcup98", "azure-llm-2023"}
    whole = sizes | {"source": "worldcup98", "llm_source": "azure-llm-2023", "llm_days": 1, "profile": "publication"}
    assert execution.given_parameters(house, "publication") == whole


def test_a_first_trace_without_a_twin_leaves_the_second_what_is_given_for_it(house, monkeypatch):
    lines = "\n".join(f'{name}: str = "synthetic"  # anything' for name in ("source", "llm_source", "llm_days"))
    house.source.write_text(CHAPTER.replace("n: int = 2  # count", f"n: int = 2  # count\n{lines}"))
    nbformat.write(to_notebook(house.source), house.notebook)
    (house.root / "book/publication.yml").write_text(
        "01_tiny: {source: bitbrains-faststorage, n: 3, llm_source: azure-llm-2023, llm_days: 1}"
    )
    monkeypatch.setattr(execution, "trace_available", lambda source: source == "azure-llm-2023")
    kept = {"llm_source": "azure-llm-2023", "llm_days": 1, "profile": "explore"}
    assert execution.given_parameters(house, "publication") == kept
    monkeypatch.setattr(execution, "trace_available", lambda source: False)
    assert execution.given_parameters(house, "publication") == {"profile": "explore"}


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (new_output("stream", name="stderr", text="x"), "stderr"),
        (new_output("stream", name="stdout", text="a.py:3: UserWarning: careful"), "warning"),
        (new_output("stream", name="stdout", text="<Axes: xlabel='a'>"), "repr"),
        (new_output("stream", name="stdout", text="read /home/me/data.csv"), "path of the machine"),
        (new_output("execute_result", {"text/plain": "[<matplotlib.lines.Line2D at 0x7f>]"}), "bare repr"),
        (new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "x"}), "widget"),
        (new_output("error", ename="ValueError", evalue="no", traceback=[]), "raised ValueError"),
    ],
)
def test_outputs_that_nobody_meant_are_found(output, told):
    problems = output_problems(new_notebook(cells=[new_code_cell("x", outputs=[output])]))
    assert len(problems) == 1 and told in problems[0]


def test_deliberate_outputs_pass():
    outputs = [
        new_output("stream", name="stdout", text="cost < 3 and > 2, see https://example.org/home/page\n"),
        new_output(
            "display_data",
            {"text/html": "<table><tr><td>1</td></tr></table>", "text/plain": "<IPython.core.display.HTML object>"},
        ),
        new_output("display_data", {"image/png": "aaaa", "text/plain": "<Figure size 1x1>"}),
    ]
    assert output_problems(new_notebook(cells=[new_code_cell("x", outputs=outputs)])) == []


def test_widget_state_in_the_metadata_is_found():
    notebook = new_notebook(cells=[])
    notebook.metadata["widgets"] = {}
    assert "widget state" in output_problems(notebook)[0]


def test_environment_yml_says_what_pyproject_says():
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == environment_text(), "run `make lock`"
    pinned = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["dev"]}
    assert set(pinned) - {"-e ."} == wanted


def test_the_lock_pins_every_dependency_within_its_range_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?://|--index|--find-links| @ ", text)
    pins: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            pin = Requirement(line)
            assert re.fullmatch(r"==[^*]+", str(pin.specifier)), line
            pins.setdefault(pin.name.lower().replace("_", "-"), []).append(str(pin.specifier)[2:])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(text) for text in [*project["dependencies"], *extras["dev"]]]
    own = [name for wanted in asked if wanted.name == project["name"] for name in wanted.extras]  # an extra in an extra
    assert own == ["scale"]
    asked += [Requirement(text) for name in own for text in extras[name]]
    for wanted in (wanted for wanted in asked if wanted.name != project["name"]):
        versions = pins[wanted.name.lower().replace("_", "-")]
        assert all(wanted.specifier.contains(v, prereleases=True) for v in versions), wanted


def test_no_registry_host_or_machine_path_is_committed():
    for lock in (ROOT / "requirements.lock", ROOT / "book/theme/package-lock.json"):
        assert '"resolved"' not in lock.read_text(encoding="utf-8") and "https://reg" not in lock.read_text(
            encoding="utf-8"
        )


def test_make_help_names_every_command():
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    import subprocess

    told = subprocess.run([make, "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("book", "test", "lab", "report", "notebooks", "check", "clean", "help"):
        assert re.search(rf"^\s+make {command}\b", told, re.MULTILINE), command


def test_report_without_a_source_says_what_to_type():
    import subprocess

    done = subprocess.run(["make", "-s", "report", "-o", "install"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "make report SOURCE=my.csv" in done.stdout


def test_the_runtimes_page_lists_every_chapter(house, monkeypatch):
    from book import build

    monkeypatch.setattr(build, "ROOT", house.root)
    monkeypatch.setattr(build, "chapters", lambda: [house])
    (house.root / "_build/executed").mkdir(parents=True)
    (house.root / "_build/executed/01_tiny.json").write_text('{"seconds": 12.34, "parameters": {"n": 1}}')
    (house.root / "_build/executed/01_renamed.json").write_text('{"seconds": 500, "parameters": {}}')  # of long ago
    page = build.runtimes_page()
    assert "took 12 s of chapter time" in page
    assert "[Tiny](../executed/01_tiny.ipynb)" in page and "12.3" in page and "`n = 1`" in page
    assert textwrap.dedent(page).startswith("---\n")


@pytest.mark.parametrize("jobs", ["0", "-2"])
def test_no_job_at_a_time_is_refused_in_a_sentence(house, capsys, jobs):
    assert execution.main(["--profile", "smoke", "--jobs", jobs]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"--jobs is {jobs}" in told
