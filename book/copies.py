"""A reader's own copies of the chapters, for JupyterLab: paired with no source, references and citations in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import bibtexparser
import nbformat
from bibtexparser.middlewares import LatexDecodingMiddleware, SeparateCoAuthors, SplitNameParts

from book.chapters import ROOT, Chapter, to_notebook

__all__ = ["Work", "copy_to", "works"]

PAGES = {"your-own-data": "*Your own data*", "glossary-page": "the *Glossary*"}  # of the site, with no notebook


@dataclass(frozen=True)
class Work:
    """A work of the bibliography: its authors in short, its year, and the line that lists it."""

    authors: str
    year: str
    line: str


def works(bibliography: str) -> dict[str, Work]:
    """The works of a BibTeX text by key.

    Example:
        >>> works("@misc{a,\\n  author = {Ab, C. and {De Fgh}},\\n  title = {On {It}}, year = {1999}, doi = {10.1/2}\\n}")["a"]
        Work(authors='Ab and De Fgh', year='1999', line='Ab and De Fgh (1999). On It. https://doi.org/10.1/2')
    """
    # braces stay until names are split: they hold the name of an organisation together
    steps = [LatexDecodingMiddleware(keep_braced_groups=True), SeparateCoAuthors(), SplitNameParts()]
    plain = lambda text: text.replace("{", "").replace("}", "")  # noqa: E731
    found = {}
    for entry in bibtexparser.parse_string(bibliography, append_middleware=steps).entries:
        fields = {name: field.value for name, field in entry.fields_dict.items()}
        people = fields["author"] if "author" in fields else fields["editor"]
        names = [plain(" ".join(part.von + part.last)) for part in people]
        authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        where = f"https://doi.org/{quote(fields['doi'])}" if "doi" in fields else fields.get("url", "")
        line = f"{authors} ({fields['year']}). {plain(fields['title'])}. {where}".strip()
        found[entry.key] = Work(authors, fields["year"], line)
    return found


def copy_to(folder: Path, wanted: Sequence[Chapter], *, root: Path = ROOT) -> list[str]:
    """Write the chapters that `folder` does not hold yet; their file names.

    JupyterLab knows neither the bibliography nor the other chapters: a citation becomes authors and year, with a list at
    the end, and a reference to a chapter a link to its notebook. What `folder` holds is the reader's and stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lacking = [c for c in wanted if not (folder / c.notebook.name).exists()]
    known = works((root / "book" / "references.bib").read_text(encoding="utf-8")) if lacking else {}
    links = PAGES | dict(_link(c) for c in wanted)
    for chapter in lacking:
        notebook = to_notebook(chapter.source)
        notebook.metadata.pop("jupytext")
        cited: set[str] = set()
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _in_words(cell.source, known, links, cited)
        if cited:
            listed = "\n".join(f"- {line}" for line in sorted(cited))
            notebook.cells.append(nbformat.v4.new_markdown_cell(f"## References\n\n{listed}", id="references"))
        nbformat.write(notebook, folder / chapter.notebook.name)
    return [c.notebook.name for c in lacking]


def _link(chapter: Chapter) -> tuple[str, str]:
    """The label of a chapter, and a link to its notebook."""
    found = re.search(r"^\((ch-[\w-]+)\)=\n# (.+)$", chapter.source.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{chapter.name}: no line (ch-...)= before its title.")
    return found[1], f"[{found[2]}]({chapter.notebook.name})"


def _in_words(text: str, known: Mapping[str, Work], links: Mapping[str, str], cited: set[str]) -> str:
    """`text` with citations and references in words; `cited` gets the lines of the works."""

    def cite(match: re.Match[str]) -> str:
        of = [known[key.strip()] for key in match[2].split(",")]
        cited.update(work.line for work in of)
        if match[1] == "t":
            return " and ".join(f"{work.authors} ({work.year})" for work in of)
        return f"({'; '.join(f'{work.authors}, {work.year}' for work in of)})"

    text = re.sub(r"\{cite:([pt])\}`([^`]+)`", cite, text)
    return re.sub(r"\[\]\(#([\w-]+)\)", lambda m: links.get(m[1], m[0]), text)
