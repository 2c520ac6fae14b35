"""Chapters and what they depend on: the one list that conversion, execution and tests share."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode

__all__ = ["ROOT", "Chapter", "chapters", "parameters", "to_notebook"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Chapter:
    """One chapter: `notebooks/<name>.md` is its source, `notebooks/<name>.ipynb` is made from it."""

    name: str
    root: Path = ROOT

    @property
    def source(self) -> Path:
        """The MyST file that is edited."""
        return self.root / "notebooks" / f"{self.name}.md"

    @property
    def notebook(self) -> Path:
        """The notebook made from it."""
        return self.root / "notebooks" / f"{self.name}.ipynb"

    def support_files(self) -> list[Path]:
        """Every file of `support/` that the chapter can reach by imports, with the data files of those packages."""
        code = "\n".join(c.source for c in to_notebook(self.source).cells if c.cell_type == "code")
        found: set[Path] = set()
        queue = list(_imports(code, package=""))
        while queue:
            for path in _module_files(self.root, queue.pop()):
                if path not in found:
                    found.add(path)
                    if path.suffix == ".py":
                        package = ".".join(path.relative_to(self.root).parent.parts)
                        queue += _imports(path.read_text(encoding="utf-8"), package)
        return sorted(found)

    def fingerprint(self, given: dict[str, object], extra: str = "") -> str:
        """SHA-256 over all the run depends on: source, reachable support files, recorded results, lock, Python, parameters, `extra`."""
        digest = hashlib.sha256()
        names = re.findall(r"""\brecorded\(["'](\w+)["']\)""", self.source.read_text(encoding="utf-8"))
        records = [self.root / "benchmarks" / "results" / f"{name}.json" for name in sorted(set(names))]
        known = [path for path in records if path.exists()]
        for path in [self.source, self.root / "requirements.lock", *self.support_files(), *known]:
            digest.update(path.relative_to(self.root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        digest.update(f"{sys.version_info[:2]} {sorted(given.items())} {extra}".encode())
        return digest.hexdigest()


def chapters(root: Path = ROOT) -> list[Chapter]:
    """All chapters in reading order."""
    return [Chapter(path.stem, root) for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.md"))]


def to_notebook(source: Path) -> NotebookNode:
    """Read a MyST source as a clean notebook with stable cell ids (same source, same bytes).

    The page's `numbering`, `title` and so on stay in the notebook's metadata, where mystmd reads them. It is paired: saved
    in JupyterLab it writes its source, unchanged but for what was edited.
    """
    notebook = jupytext.read(source, fmt="md:myst")
    notebook.metadata["jupytext"].pop("text_representation", None)  # the version of jupytext
    notebook.metadata["language_info"] = {
        "name": "python",
        "pygments_lexer": "ipython3",
    }  # as JupyterLab, or cells differ
    for position, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem[:40]}-{position:03d}"
        if cell.cell_type == "code":
            cell["outputs"], cell["execution_count"] = [], None
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    return nbformat.from_dict(notebook)


def parameters(file: Path) -> dict[str, dict[str, object]]:
    """A YAML file of chapter name -> papermill parameters; a chapter that is not there has none."""
    loaded = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return {str(name): dict(given or {}) for name, given in loaded.items()}


def _imports(code: str, package: str) -> Iterator[str]:
    """Dotted names under `support` that `code` imports anywhere, relative imports resolved against `package`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "support")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).strip(".")
            if base.split(".")[0] == "support":
                yield base
                yield from (f"{base}.{a.name}" for a in node.names)


def _module_files(root: Path, name: str) -> Iterator[Path]:
    """The file of module `name`, the __init__ of every package above it, and those packages' data files."""
    parts = name.split(".")
    module = root.joinpath(*parts)
    if module.with_suffix(".py").is_file():
        yield module.with_suffix(".py")
    for depth in range(1, len(parts) + 1):
        folder = root.joinpath(*parts[:depth])
        if folder.is_dir():
            yield from (p for p in folder.iterdir() if p.name == "__init__.py" or (p.is_file() and p.suffix != ".py"))
            plain = (d for d in folder.iterdir() if d.is_dir() and not (d / "__init__.py").exists())
            yield from (p for d in plain for p in d.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc"))
