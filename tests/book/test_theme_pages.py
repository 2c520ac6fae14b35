"""Every family of nodes reaches the page as it should."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pandas as pd
import pytest

from book.theme.assets import KATEX_VERSION, fixed_assets
from book.theme.site import CONTENT_VERSION, THEME
from book.theme.tables import finish_table
from book.theme.write import build


def page(site: Path, name: str) -> str:
    return (site / name / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "expected",
    [
        "<em>emphasis</em>",
        "<strong>strong</strong>",
        "<del>gone</del>",
        "<code>code</code>",
        "H<sub>2</sub>O",
        "10<sup>3</sup>",
        "<u>underlined</u>",
        '<span class="b-smallcaps">Small Caps</span>',
        "<kbd>Ctrl</kbd>",
        '<abbr title="Service level objective">SLO</abbr>',
        '<a href="https://example.org/" class="b-out" rel="noreferrer">link</a>',
        '<span class="b-number">(1)</span>',
        'href="#cite-gneiting2007">Gneiting &amp; Raftery (2007)</a>',
        'data-preview="figures#fig-plain">Figure\u00a02</a>',
        'href="../run/#fig-run"',
        'class="b-term" href="../glossary/#term-demand"',
        '<a href="../blocks/">Blocks</a>',
        '<h3 id="sec-deep">',
        "<blockquote>",
        "<hr>",
        '<ul class="b-tasks">',
        "<dt>Term</dt><dd>Its definition.</dd>",
        'download="data.csv"',
        '<li id="fn-one">',
        'href="#fnref-one-2"',
        '<li id="cite-kleinrock1975">',
    ],
)
def test_text_nodes(site: Path, expected: str) -> None:
    assert expected in page(site, "text").replace("&#39;", "'")


def test_footnotes_that_nobody_calls_are_not_printed(site: Path) -> None:
    assert "nobody calls" not in page(site, "text")


@pytest.mark.parametrize(
    "expected",
    [
        '<div class="b-admonition b-note">',
        '<details class="b-admonition b-warning dropdown"><summary class="b-admonition-title">Take care</summary>',
        'b-is-at-a-glance" id="tip-one"',
        '<details class="b-dropdown" open>',
        'role="tab"',
        'data-sync="sh"',
        '<p class="b-card-title"><a href="../text/">First card</a></p>',
        '<div class="b-card-head"><p>Head</p></div>',
        'id="ex-one"',
        '<summary class="b-admonition-title">Solution to Exercise\u00a01</summary>',
        "Theorem 1",
        '<div class="b-code-name">demo.py</div>',
        'class="b-line b-marked" data-n="2"',
        '<span class="b-caption-number">Program\u00a01</span>',
        "no language &lt;at all&gt;",
        '<aside class="b-aside">',
        '<th scope="col" class="b-num">cost</th>',
        'class="b-num b-right-text">1.0</td>',
        '<span class="b-caption-number">Table\u00a02</span>',
    ],
)
def test_block_nodes(site: Path, expected: str) -> None:
    assert expected in page(site, "blocks")


def test_figures_have_numbers_alternative_text_and_size(site: Path) -> None:
    html = page(site, "figures")
    assert '<figure class="b-figure" id="fig-plain">' in html
    assert 'style="width:60%" alt="A rising line" width="360" height="170"' in html
    assert '<span class="b-caption-number">(a)</span>' in html
    assert html.count('id="fig-run"') == 0, "an embedded copy must not take the original's id"
    assert "Figure\u00a04" in html and "b-equation" in html


@pytest.mark.parametrize(
    "expected",
    [
        '<summary>Show code (1 line)</summary><div class="b-code b-input"',
        '<figure class="b-figure" id="fig-run">',
        'alt="A line that rises"',
        "<caption>Two policies</caption>",
        '<td id="T_abc12_row0_col1" class="b-num data row0 col1" >12.5</td>',
        "hello &lt;world&gt;",
        '<span class="b-ansi-red">red</span>',
        '<strong>12.5 USD</strong>, <span class="math inline"><span class="b-math"><span class="katex">',
        'data-preview="run#fig-run">Figure 4</a>',
        'class="b-paper" src="../build/',
        '<details class="b-fold"><summary>Show output</summary>',
        "b-error",
        "<summary>Show code and results</summary>",
        'href="../downloads/12_run.ipynb" download="12_run.ipynb"',
        'href="../downloads/as-run/12_run.ipynb"',
        "Chapter 12",
        "How is a run shown?</h1>",
    ],
)
def test_notebook_nodes(site: Path, expected: str) -> None:
    assert expected in page(site, "run")


def test_removed_code_and_cells_are_not_on_the_page(site: Path) -> None:
    html = page(site, "run") + (site / "assets" / "search.js").read_text()
    assert "hidden = 1" not in html
    assert "Markdown(...)" not in html
    assert "<style scoped>" not in html


def test_downloads_are_the_clean_and_the_executed_notebook(site: Path) -> None:
    clean = json.loads((site / "downloads" / "12_run.ipynb").read_text())
    run = json.loads((site / "downloads" / "as-run" / "12_run.ipynb").read_text())
    assert not any(c.get("outputs") for c in clean["cells"])
    assert any(c.get("outputs") for c in run["cells"])


def test_the_landing_page_shows_the_figure_of_the_run_and_the_chapters(site: Path) -> None:
    html = (site / "index.html").read_text(encoding="utf-8")
    hero, rest = html.split('<section class="b-gallery"')
    assert '<div class="b-hero-figure"><figure' in hero and 'src="./build/' in hero
    assert "b-thumb" in rest and "How is a run shown?" in rest
    assert "plt.plot" not in html, "the figure's code stays in its chapter"


def test_whole_book_bibliography_and_glossary(site: Path) -> None:
    html = page(site, "references")
    assert html.index("cite-gneiting2007") < html.index("cite-kleinrock1975")
    assert '<dt id="term-service-rate">service rate</dt>' in page(site, "glossary")


def test_previews_hold_what_references_point_at(site: Path) -> None:
    text = (site / "assets" / "previews.js").read_text(encoding="utf-8")
    previews = json.loads(text.removeprefix("window.BOOK_PREVIEWS=").rstrip(";\n"))
    assert {"text#eq-newsvendor", "figures#fig-plain", "run#fig-run", "glossary#term-demand", "blocks#ex-one"} <= set(
        previews
    )
    assert not any(re.search(r'\sid="', html) for html in previews.values())


def test_search_has_a_record_for_every_section(site: Path) -> None:
    text = (site / "assets" / "search.js").read_text(encoding="utf-8")
    records = json.loads(text.removeprefix("window.BOOK_SEARCH=").rstrip(";\n"))
    assert {"", "text/#sec-deep", "run/#other-outputs", "glossary/"} <= {r["u"] for r in records}
    assert any("12.5 USD" in r["b"] for r in records), "results written as Markdown can be found"


def test_contract_with_mystmd_and_katex(book: Path) -> None:
    content = json.loads((book / "_build" / "site" / "content" / "text.json").read_text())
    assert content["version"] == CONTENT_VERSION == 3
    package = json.loads((THEME / "package.json").read_text())
    assert package["dependencies"]["katex"] == KATEX_VERSION
    math = next(n for n in content["mdast"]["children"][0]["children"] if n["type"] == "math")
    assert 'class="katex"' in math["html"]
    assert b"katex/KaTeX_Main-Regular.woff2" in fixed_assets()["katex.css"]


def test_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (THEME / "package-lock.json").read_text()


def test_two_builds_give_the_same_bytes(make_book, site: Path) -> None:
    again = make_book()
    out = again / "_build" / "html"
    assert build(again / "_build" / "site", out) == []
    names = {p.relative_to(site) for p in site.rglob("*") if p.is_file()}
    assert names == {p.relative_to(out) for p in out.rglob("*") if p.is_file()}
    differing = [n for n in names if (site / n).read_bytes() != (out / n).read_bytes()]
    assert differing == []


def test_rendering_takes_less_than_two_seconds(book: Path, tmp_path: Path) -> None:
    started = time.process_time()
    assert build(book / "_build" / "site", tmp_path / "html", book) == []
    assert time.process_time() - started < 2.0


def test_index_names_of_pandas_move_into_the_corner() -> None:
    table = finish_table(
        "<table><thead><tr><th></th><th>cost</th></tr><tr><th>policy</th><th></th></tr></thead>"
        "<tbody><tr><th>static</th><td>1.5</td></tr></tbody></table>"
    )
    assert table.count("<tr>") == 2
    assert re.search(r"<thead><tr><th[^>]*>policy</th><th[^>]*b-num[^>]*>cost</th></tr></thead>", table)


@pytest.mark.parametrize("groups", ["aab", "aabb"], ids=["one spans", "all span"])
def test_numbers_line_up_beside_an_index_that_spans_rows(groups: str) -> None:
    frame = pd.DataFrame({"loss": 1.5, "model": "ridge", "cost": 2}, index=range(len(groups)))
    table = finish_table(frame.set_index([list(groups), frame.index.map("row {}".format)]).to_html(border=0))
    assert 'rowspan="2"' in table
    assert re.findall(r"<(t[dh])[^>]*b-num[^>]*>([^<]*)<", table) == [
        ("th", "loss"), ("th", "cost"), *[("td", "1.5"), ("td", "2")] * len(groups)
    ]  # fmt: skip
