"""What a reader meets in JupyterLab: MyST is rendered, a save keeps the pair, copies are the reader's own."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupytext.async_contentsmanager import build_async_jupytext_contents_manager_class

from book.chapters import ROOT, chapters, to_notebook
from book.copies import copy_to, works
from tests.book.test_browser import browser  # noqa: F401

SYNTAX = re.compile(r"^(?::{3,}|`{3,})(\{[a-z-]+\})|(\{[a-z:]+\})`", re.MULTILINE)


def saved_in_lab(folder, chapter, edit=lambda cells: None):
    """Copy the pair to `folder`, open the notebook as JupyterLab does, the source being older, `edit` and save it."""
    for file in (chapter.source, chapter.notebook, chapter.source.with_name("jupytext.toml")):
        shutil.copy(file, folder)
    os.utime(folder / chapter.source.name, (1e9, 1e9))  # as after `make notebooks`
    manager = build_async_jupytext_contents_manager_class(AsyncLargeFileManager)(root_dir=str(folder))
    running = {"name": "python", "version": "3.11.7", "pygments_lexer": "ipython3", "mimetype": "text/x-python"}

    async def save() -> None:
        opened = await manager.get(chapter.notebook.name, type="notebook")
        opened["content"]["metadata"]["language_info"] = running
        edit(opened["content"]["cells"])
        await manager.save(opened, chapter.notebook.name)

    asyncio.run(save())
    return (folder / chapter.source.name).read_text(encoding="utf-8")


@pytest.mark.parametrize("chapter", chapters(), ids=lambda c: c.name)
def test_the_pair_survives_a_save(chapter, tmp_path):
    """jupytext drops title and picture from a paired source unless it is told to keep them."""
    assert saved_in_lab(tmp_path, chapter) == chapter.source.read_text(encoding="utf-8")


def test_an_edit_in_lab_arrives_in_the_source_and_nothing_else(tmp_path):
    chapter = chapters()[-1]
    written = saved_in_lab(tmp_path, chapter, lambda cells: cells.append(nbformat.v4.new_markdown_cell("mine")))
    assert written == chapter.source.read_text(encoding="utf-8") + "\n+++\n\nmine\n"


def test_copies_are_kept_and_write_no_source(tmp_path):
    wanted = chapters()[:2]
    (tmp_path / wanted[0].notebook.name).write_text("mine")
    assert copy_to(tmp_path, wanted) == [wanted[1].notebook.name]
    assert (tmp_path / wanted[0].notebook.name).read_text() == "mine"
    copied = nbformat.read(tmp_path / wanted[1].notebook.name, as_version=4)
    code = lambda nb: [c.source for c in nb.cells if c.cell_type == "code"]  # noqa: E731
    assert code(copied) == code(to_notebook(wanted[1].source)) and "jupytext" not in copied.metadata


def test_copies_cite_and_refer_in_words(tmp_path):
    copy_to(tmp_path, chapters())
    known = works((ROOT / "book" / "references.bib").read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"\d{4}", work.year) and work.authors and "{" not in work.line for work in known.values())
    for chapter in chapters():
        cells = nbformat.read(tmp_path / chapter.notebook.name, as_version=4).cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        assert "{cite:" not in text and "[](#ch-" not in text
        for target in re.findall(r"\]\((\w+\.ipynb)\)", text):
            assert (tmp_path / target).exists()
        keys = {k for m in re.findall(r"\{cite:[pt]\}`([^`]+)`", chapter.source.read_text()) for k in m.split(",")}
        assert {line[2:] for line in cells[-1].source.splitlines()[2:]} == {known[k.strip()].line for k in keys}


@pytest.fixture
def lab(tmp_path):
    """A folder, and the address of a JupyterLab on it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "lab").mkdir()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--ip=127.0.0.1", "--IdentityProvider.token=", f"--notebook-dir={tmp_path / 'lab'}"]
    own = {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "PYTHONWARNINGS": "ignore"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, cwd=tmp_path, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(360):
            try:
                urllib.request.urlopen(address + "api").close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        yield tmp_path / "lab", address
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # a server that is asked while it starts may not hear it
            server.kill()
            server.wait()


def test_lab_renders_what_chapters_use(lab, browser):  # noqa: F811
    folder, address = lab
    examples = {}
    for chapter in chapters():
        for cell in to_notebook(chapter.source).cells:
            for directive, role in SYNTAX.findall(cell.source) if cell.cell_type == "markdown" else ():
                examples.setdefault(directive or role, cell.source)
    assert {"{admonition}", "{math}", "{cite:p}", "{exercise}"} <= set(examples)
    cells = [nbformat.v4.new_markdown_cell(text) for text in dict.fromkeys(examples.values())]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "all.ipynb")
    page = browser.new_page(viewport={"width": 1280, "height": 12000})
    page.set_default_timeout(180_000)
    page.goto(f"{address}lab/tree/all.ipynb")
    page.wait_for_function(f"document.querySelectorAll('.jp-MarkdownCell .myst').length >= {len(cells)}")
    shown = page.locator(".jp-Notebook").inner_text()
    page.close()
    raw = [name for name in examples if name in shown]
    assert not raw and ":::" not in shown, f"shown as written in JupyterLab: {raw}"
