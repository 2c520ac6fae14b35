"""What must stop the build does stop it, and says where."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from book.theme.check import check_site
from book.theme.site import Site, ThemeError
from book.theme.text import Problems
from book.theme.write import build

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def broken(book: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Change the content of one page, build, return the problems."""

    def run(slug: str, change: Callable[[dict[str, Any]], None]) -> list[str]:
        content = tmp_path / "_build" / "site"
        shutil.copytree(book / "_build" / "site", content)
        file = content / "content" / f"{slug}.json"
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))
        return build(content, tmp_path / "_build" / "html", book)

    return run


def first(data: dict[str, Any]) -> list[dict[str, Any]]:
    return data["mdast"]["children"][0]["children"]


def paragraph(*children: dict[str, Any]) -> dict[str, Any]:
    return {"type": "paragraph", "children": list(children)}


def test_unknown_node(broken: Callable[..., list[str]]) -> None:
    found = broken("text", lambda d: first(d).append({"type": "anywidget", "children": []}))
    assert found == ["text.md: the theme has no renderer for 'anywidget' nodes ('')"]


def test_unresolved_reference(broken: Callable[..., list[str]]) -> None:
    node = {"type": "crossReference", "label": "fig-gone", "identifier": "fig-gone", "resolved": False}
    found = broken("text", lambda d: first(d).append(paragraph(node)))
    assert found == ["text.md: cross-reference 'fig-gone' leads nowhere"]


def test_missing_citation(broken: Callable[..., list[str]]) -> None:
    node = {"type": "cite", "label": "nobody2020", "children": [{"type": "text", "value": "x"}]}
    assert broken("text", lambda d: first(d).append(paragraph(node))) == [
        "text.md: citation 'nobody2020' is not in the bibliography"
    ]


def test_broken_fragment(broken: Callable[..., list[str]]) -> None:
    node = {"type": "link", "url": "/blocks#gone", "internal": True, "children": [{"type": "text", "value": "x"}]}
    assert broken("text", lambda d: first(d).append(paragraph(node))) == [
        "text/index.html: broken fragment '../blocks/#gone'"
    ]


def test_link_to_no_page(broken: Callable[..., list[str]]) -> None:
    node = {"type": "link", "url": "/nowhere", "internal": True, "children": [{"type": "text", "value": "x"}]}
    assert "text.md: link to '/nowhere' leads to no page of the book" in broken(
        "text", lambda d: first(d).append(paragraph(node))
    )


def test_missing_file(broken: Callable[..., list[str]]) -> None:
    node = {"type": "image", "url": "/gone.png", "alt": "x"}
    assert "text.md: file '/gone.png' is missing from the site's content" in broken(
        "text", lambda d: first(d).append(paragraph(node))
    )


def test_image_without_alternative_text(broken: Callable[..., list[str]]) -> None:
    def change(data: dict[str, Any]) -> None:
        node = next(n for n in first(data) if n["type"] == "image")
        del node["alt"]

    assert broken("figures", change) == ["figures.md: image 'images/plain.svg' has no alternative text"]


def test_two_copied_figures_of_a_page_have_their_own_words(broken: Callable[..., list[str]], tmp_path: Path) -> None:
    def copy(data: dict[str, Any], *words: dict[str, Any]) -> None:
        figure = next(n for n in first(data) if n["type"] == "container")
        outputs = [n for n in figure["children"] if n["type"] == "outputs"]
        caption = {"type": "caption", "children": [paragraph(*words)]}
        first(data).append(figure | {"source": {"label": "elsewhere"}, "children": [*outputs, caption]})

    assert broken("index", lambda d: copy(d, {"type": "text", "value": "A line that falls"})) == []
    html = (tmp_path / "_build" / "html" / "index.html").read_text()
    assert re.findall(r'<img class="b-paper"[^>]* alt="([^"]*)"', html) == ["A line that rises", "A line that falls"]
    shutil.rmtree(tmp_path / "_build")
    assert "no alternative text" in " ".join(broken("index", copy)), "the words of one figure passed for another's"


def test_formula_that_katex_refuses(broken: Callable[..., list[str]]) -> None:
    node = {"type": "math", "value": "\\frac{", "error": True, "message": "unexpected end"}
    assert broken("text", lambda d: first(d).append(node)) == ["text.md: KaTeX cannot set '\\\\frac{': unexpected end"]


def _output(data: dict[str, str]) -> dict[str, Any]:
    bundle = {mime: {"content": content, "content_type": mime} for mime, content in data.items()}
    output = {"type": "output", "jupyter_data": {"output_type": "display_data", "metadata": {}, "data": bundle}}
    return {"type": "outputs", "children": [output]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"application/vnd.jupyter.widget-view+json": "{}"}, "needs a program behind the page"),
        ({"application/vnd.unknown": "x"}, "cannot show an output of type"),
        ({"text/html": "<script>1</script>"}, "carries a script"),
        ({"text/html": "<img alt='x' src='https://example.org/x.png'>"}, "from another host"),
        ({"text/markdown": "[](#fig-gone)"}, "which is no label of the book"),
        ({"text/markdown": "$\\frac{$"}, "KaTeX cannot set"),
        ({"text/plain": f"{Path.home()}/data.csv"}, "of the machine that built it"),
    ],
)
def test_outputs_that_must_not_be_published(
    broken: Callable[..., list[str]], data: dict[str, str], expected: str
) -> None:
    found = broken("run", lambda d: d["mdast"]["children"].append(_output(data)))
    assert len(found) >= 1 and all(expected in f for f in found)


def test_another_content_version_is_refused(broken: Callable[..., list[str]]) -> None:
    with pytest.raises(ThemeError, match="content version 4"):
        broken("text", lambda d: d.update(version=4))


def test_missing_content_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ThemeError, match="myst build --site"):
        Site(tmp_path, tmp_path)


def test_faulty_site_leaves_the_old_one(book: Path, broken: Callable[..., list[str]], tmp_path: Path) -> None:
    old = tmp_path / "_build" / "html"
    old.mkdir(parents=True)
    (old / "index.html").write_text("old")
    broken("text", lambda d: first(d).append({"type": "nonsense"}))
    assert (old / "index.html").read_text() == "old"
    assert (tmp_path / "_build" / "html.faulty" / "index.html").exists()


def test_command_exits_with_one_and_names_page_and_target(book: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "book.theme", "--site", str(tmp_path), "--out", str(tmp_path / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "myst build --site" in done.stderr and "Traceback" not in done.stderr


def test_hook_of_myst_build_html_renders_with_the_books_environment(book: Path, tmp_path: Path) -> None:
    shutil.copytree(book, tmp_path / "book")
    out = tmp_path / "book" / "_build" / "html"
    environment = os.environ | {"BUILD_DIRECTORY": str(out)}
    done = subprocess.run(
        ["node", "render.mjs"], cwd=ROOT / "book" / "theme", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (out / "index.html").exists() and "pages in" in done.stdout


def test_check_follows_every_link_of_the_site(site: Path) -> None:
    problems = Problems()
    assert check_site(site, problems, (str(site.parent),)) > 150
    assert problems.found == []


def test_published_files_hold_no_private_paths_and_no_config(site: Path, book: Path) -> None:
    assert not (site / "config.json").exists()
    for file in site.rglob("*"):
        if file.suffix in (".html", ".js", ".css", ".ipynb", ".json"):
            assert str(book) not in file.read_text(encoding="utf-8"), file
