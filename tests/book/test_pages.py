"""What the start pages tell a newcomer: commands, parameters and figures, against the code they speak of."""

import re
import subprocess
import tomllib

import pytest

from book.chapters import ROOT, chapters, to_notebook
from support.autoscaling import line
from support.operations.report import _parser
from support.telemetry.reading.files import MAX_BYTES
from support.telemetry.reading.traces import datasets

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]
TEXT = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
OWN = TEXT["your_own_data.md"]


def numbers(words):
    """Chapter numbers of `02, 05 and 12 to 15`."""
    found = set()
    for first, last in re.findall(r"(\d\d)(?: to (\d\d))?", words):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def with_parameter(*names):
    """Numbers of the chapters whose parameters cell has all these names."""
    cells = {
        c: next(x for x in to_notebook(c.source).cells if "parameters" in x.metadata.get("tags", []))
        for c in chapters()
    }
    return {int(c.name[:2]) for c, cell in cells.items() if all(re.search(rf"^{n}:", cell.source, re.M) for n in names)}


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_every_make_target_named_is_in_the_makefile(page):
    there = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:`|^|&& )make ([a-z]+)", TEXT[page], re.M)) <= there


def test_the_readme_names_every_make_target():
    said = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^\| `make ([a-z]+)", TEXT["README.md"], re.M))
    assert listed == set(re.findall(r"^\s+make (\w+)", said, re.M)) - {"help"} and listed


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_papermill_commands_name_real_chapters_and_parameters(page):
    for name, given in re.findall(r"papermill notebooks/(\w+)\.ipynb \S+(.*)", TEXT[page]):
        (chapter,) = [c for c in chapters() if c.name == name]
        named = set(re.findall(r"-p (\w+)", given)) | set(re.findall(r"'(\w+):", given))
        assert named and int(name[:2]) in with_parameter(*named), chapter


def test_which_chapters_take_what():
    every = {int(c.name[:2]) for c in chapters()}
    assert "Every chapter but the first takes `source`." in OWN and with_parameter("source") >= every - {1}
    columns, duplicates = re.search(
        r"Chapters ([\d, a-z]+) also take [^;]+; ([\d, a-z]+) and the report take", OWN
    ).groups()
    assert numbers(columns) == with_parameter("timestamp_column", "value_column", "timezone")
    assert numbers(duplicates) == with_parameter("duplicates")
    table = re.search(r"Whatever was changed stands in a table at the top of chapters ([\d, a-z]+), and", OWN).group(1)
    shown = {
        int(c.name[:2])
        for c in chapters()
        if '.quality_report(), "What was read, and what was ' in c.source.read_text(encoding="utf-8")
    }
    assert numbers(table) == shown


def test_figures_of_your_own_data_are_those_of_the_code():
    words = dict(zip(["eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen"], range(8, 15), strict=True))
    said = re.search(r"^(\w+) datasets are registered", OWN, re.M).group(1).lower()
    assert words[said] == (datasets()["example"] != "").sum()
    assert f"up to {MAX_BYTES / 1e9:g} GB" in OWN
    assert line.TICKS_SECONDS == (10, 3600) and "want 10 s to 1 h" in OWN
    assert _parser().get_default("test_days") == 7 and "against the last seven days" in OWN


def test_the_readme_asks_for_the_pythons_that_the_project_allows():
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    low, high = (int(x) for x in re.fullmatch(r">=3\.(\d+),<3\.(\d+)", allowed).groups())
    said = re.search(r"Python ((?:3\.\d+(?:, | or )?)+)", TEXT["README.md"]).group(1)
    assert [int(x) for x in re.findall(r"3\.(\d+)", said)] == list(range(low, high))


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_links_to_files_lead_somewhere(page):
    folder = ROOT if page in ("README.md", "CONTRIBUTING.md") else ROOT / "book"
    for target in re.findall(r"\]\(([^)#:]+\.(?:md|svg|cff|ipynb))\)", TEXT[page]):
        if "_build" in target:
            assert (ROOT / "notebooks" / target.split("/")[-1]).is_file(), target
        else:
            assert (folder / target).is_file(), target
