"""What every chapter obeys: pairing, parameters, outputs, prose. One parametrised test each."""

import ast
import re

import jupytext
import nbformat
import pytest
import yaml

from book.chapters import ROOT, chapters, parameters, to_notebook
from book.notebooks import text_of

CHAPTERS = pytest.mark.parametrize("chapter", chapters(), ids=lambda c: c.name)
TAGS = {
    "hide-input",
    "hide-output",
    "remove-input",
    "remove-output",
    "remove-cell",
    "parameters",
    "nbval-check-output",
    "nbval-ignore-output",
}


def cells(chapter, kind="code"):
    return [c for c in to_notebook(chapter.source).cells if c.cell_type == kind]


def tagged(chapter, tag):
    return [c for c in cells(chapter) if tag in c.metadata.get("tags", [])]


def test_there_are_chapters():
    assert len(chapters()) >= 4


@CHAPTERS
def test_notebook_is_its_source_cell_by_cell(chapter):
    made, source = nbformat.read(chapter.notebook, as_version=4), jupytext.read(chapter.source)
    as_rows = lambda nb: [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in nb.cells]  # noqa: E731
    assert as_rows(made) == as_rows(source)
    assert chapter.notebook.read_text(encoding="utf-8") == text_of(chapter), "run `make notebooks`"


@CHAPTERS
def test_no_outputs_are_committed(chapter):
    for cell in nbformat.read(chapter.notebook, as_version=4).cells:
        if cell.cell_type == "code" and "nbval-check-output" not in cell.metadata.get("tags", []):
            assert not cell.outputs and cell.execution_count is None


@CHAPTERS
def test_parameters_cell_is_second_literal_typed_and_commented(chapter):
    code = cells(chapter)
    assert [i for i, c in enumerate(code) if "parameters" in c.metadata.get("tags", [])] == [1]
    lines = [line for line in code[1].source.splitlines() if line.strip() and not line.startswith("#")]
    for node, line in zip(ast.parse(code[1].source).body, lines, strict=True):
        assert isinstance(node, ast.AnnAssign), f"not a typed assignment: {line}"
        ast.literal_eval(node.value)  # raises for a derived value
        assert "#" in line, f"no unit and range: {line}"
    names = {node.target.id for node in ast.parse(code[1].source).body}
    assert {"seed", "profile", "source"} <= names


@CHAPTERS
def test_cells_are_short_and_imports_come_first(chapter):
    for position, cell in enumerate(cells(chapter)):
        assert len(cell.source.splitlines()) <= 30, f"code cell {position}: move it to support/ with a test"
        assert not re.search(r"^\s*[%!]", cell.source, re.MULTILINE), "magics and shell lines stay out"
        imported = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Import | ast.ImportFrom)]
        assert position == 0 or not imported, f"code cell {position} imports"
        assert set(cell.metadata.get("tags", [])) <= TAGS


@CHAPTERS
def test_every_chapter_closes_with_its_claims(chapter):
    text = "\n".join(c.source for c in cells(chapter))
    assert "Claims(profile)" in text and text.count("claims.table()") == 1 and "claims.claim(" in text


@CHAPTERS
def test_prose_has_a_title_no_eval_and_unique_labels(chapter):
    prose = "\n".join(c.source for c in cells(chapter, "markdown"))
    metadata = to_notebook(chapter.source).metadata
    assert re.search(rf"^# {re.escape(metadata['title'])}$", prose, re.MULTILINE), "the title is also the first heading"
    assert "{eval}" not in prose
    labels = re.findall(r"^#\| label: (\S+)", "\n".join(c.source for c in cells(chapter)), re.MULTILINE)
    labels += re.findall(r"^\(([\w-]+)\)=$", prose, re.MULTILINE)
    assert len(labels) == len(set(labels))


@CHAPTERS
def test_figures_have_label_caption_and_alt_text(chapter):
    for cell in cells(chapter):
        if "plt.show()" in cell.source:
            for key in ("label: fig-", "caption:", "alt:"):
                assert f"#| {key}" in cell.source, f"{key} is missing in {cell.source[:60]!r}"
            block = "\n".join(line.removeprefix("#| ") for line in cell.source.splitlines() if line.startswith("#| "))
            assert {"label", "caption", "alt"} <= set(yaml.safe_load(block))  # a colon in a caption breaks the block


def test_labels_are_unique_in_the_book():
    labels = [
        label
        for chapter in chapters()
        for label in re.findall(
            r"^#\| label: (\S+)|^\(([\w-]+)\)=$", chapter.source.read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert len(labels) == len(set(labels))


def test_every_reference_is_cited_and_every_citation_defined():
    sources = [c.source for c in chapters()] + sorted((ROOT / "book").glob("*.md"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    cited = {
        key.strip() for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in re.split("[,;]", group)
    }
    defined = re.findall(
        r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(defined) == len(set(defined))
    assert cited == set(defined), f"undefined {cited - set(defined)}, uncited {set(defined) - cited}"


@pytest.mark.parametrize("file", ["tests/smoke.yml", "book/publication.yml"])
def test_parameter_files_name_real_chapters_and_parameters(file):
    for name, given in parameters(ROOT / file).items():
        chapter = {c.name: c for c in chapters()}[name]
        known = {node.target.id for node in ast.parse(cells(chapter)[1].source).body}
        assert set(given) <= known, f"{file}: {name}"


def test_every_public_name_of_support_is_used():
    sources = (
        [c.source for c in chapters()] + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "book").rglob("*.py"))
    )
    sources += sorted((ROOT / "support").rglob("*.py")) + sorted((ROOT / "benchmarks").glob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in sources if "node_modules" not in path.parts}
    words = {path: set(re.findall(r"\w+", text)) for path, text in texts.items() if "tests" not in path.parts}
    unused = []
    for module in sorted((ROOT / "support").rglob("*.py")):
        tree = ast.parse(texts[module])
        public = [
            n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")
        ]
        for name in public:
            if (
                sum(name in known for known in words.values()) <= 1
                and len(re.findall(rf"\b{name}\b", texts[module].split("__all__", 1)[-1])) <= 2
            ):
                unused.append(f"{module.relative_to(ROOT)}: {name}")
    assert not unused, "no chapter, command or other module uses these"


def test_house_modules_are_short():
    for path in [*(ROOT / "support").rglob("*.py"), *(ROOT / "book").rglob("*.py")]:
        if "node_modules" not in path.parts:
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


def test_imports_point_one_way():
    order = ["telemetry", "bayes", "anomalies", "forecasting", "risk", "autoscaling", "operations"]
    for path in (ROOT / "support").rglob("*.py"):
        room = path.relative_to(ROOT / "support").parts[0]
        if room in order:
            for other in re.findall(r"(?:from|import) support\.(\w+)", path.read_text(encoding="utf-8")):
                assert other not in order or order.index(other) <= order.index(room), f"{path} imports {other}"
