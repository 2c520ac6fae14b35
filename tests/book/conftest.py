"""The fixture book, built once by mystmd and rendered once by the book's theme."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from book.theme.write import build

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
THEME = ROOT / "book" / "theme"


def _myst(folder: Path) -> None:
    tool = Path(sys.executable).parent / "myst"
    done = subprocess.run([str(tool), "build", "--site", "--strict"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="session")
def make_book(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make the fixture book's content in a fresh folder; returns the folder. `change` edits the sources first."""
    if not (THEME / "node_modules" / "katex").is_dir():
        pytest.skip("fonts and formula styles are not installed: run `make install`")

    def make(change: Callable[[Path], None] = lambda folder: None) -> Path:
        folder = tmp_path_factory.mktemp("book")
        shutil.copytree(HERE / "fixture_site", folder, dirs_exist_ok=True)
        config = folder / "myst.yml"
        config.write_text(config.read_text().replace("THEME", str(THEME)))
        for place in ("_build/executed", "notebooks"):
            (folder / place).mkdir(parents=True)
        for notebook in (folder / "executed").glob("*.ipynb"):
            shutil.copy(notebook, folder / "_build" / "executed")
            clean = nbformat.read(notebook, as_version=4)
            for cell in clean.cells:
                if cell.cell_type == "code":
                    cell["outputs"], cell["execution_count"] = [], None
            nbformat.write(clean, folder / "notebooks" / notebook.name)
        change(folder)
        _myst(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def book(make_book: Callable[..., Path]) -> Path:
    """Folder of the fixture book with `_build/site` (content)."""
    return make_book()


@pytest.fixture(scope="session")
def site(book: Path) -> Path:
    """Folder of the rendered fixture site."""
    out = book / "_build" / "html"
    assert build(book / "_build" / "site", out) == []
    return out
