"""The pages in a real browser: what a reader clicks, types and hovers, and what axe-core finds."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from book.theme.tables import finish_table

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).resolve().parent.parent.parent
AXE = ROOT / "book" / "theme" / "node_modules" / "axe-core" / "axe.min.js"
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS = f"{QUIET} --disable-component-update --disable-sync".split()
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def _browser_path() -> str | None:
    named = os.environ.get("CHROMIUM")
    known = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return named or next((path for name in known if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    path = _browser_path()
    if path is None:
        pytest.skip("no browser was found: install chromium or set CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the fixture site over HTTP, under a sub-path."""
    top = tmp_path_factory.mktemp("served")
    shutil.copytree(site, top / "books" / "fixture")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(top)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/books/fixture/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def page(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    """A page on a desk; every error on it, and every request to another host, fails the test."""
    context = browser.new_context(viewport=DESK, permissions=["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    # what is still loading when a test leaves a page is ended by the browser itself, and is no fault of the page
    opened.on(
        "requestfailed",
        lambda r: None if r.failure == "net::ERR_ABORTED" else wrong.append(f"failed: {r.failure} {r.url}"),
    )
    opened.on(
        "request", lambda r: None if r.url.startswith(("http://127.0.0.1:", "file:", "data:")) else wrong.append(r.url)
    )
    yield opened
    context.close()
    assert wrong == []


@pytest.fixture(params=["http", "file"])
def start(request: pytest.FixtureRequest, site: Path) -> str:
    """Address of the first page, over HTTP under a sub-path and from the disk."""
    return request.getfixturevalue("served") if request.param == "http" else f"file://{site}/index.html"


def test_a_page_left_while_it_loads_has_no_failed_request(page: sync_api.Page, served: str) -> None:
    page.goto(served)
    page.route("**/slow.png", lambda route: None)  # never answered
    with page.expect_request("**/slow.png"):
        page.evaluate("new Image().src = 'slow.png'")
    page.goto(served)  # the fixture judges what was heard of slow.png


def test_navigation(page: sync_api.Page, start: str) -> None:
    page.goto(start)
    page.click(".b-contents >> text=Inline text and references")
    assert page.inner_text("h1") == "Inline text and references"
    page.click(".b-next")
    assert page.inner_text("h1") == "Blocks"
    page.click(".b-previous")
    page.click("main >> text=Figure 4")
    assert page.url.endswith("#fig-run") and page.inner_text("h1") == "How is a run shown?"
    page.click(".b-brand")
    assert page.locator(".b-hero").count() == 1


def test_a_table_of_seven_columns_fits_the_text_on_a_desk(page: sync_api.Page, served: str) -> None:
    headings = ["USD per server-hour", "cooldown (ticks)", "work per server and tick"] * 2
    head = "".join(f"<th>{text}</th>" for text in ["policy", *headings])
    row = "<th>windowed recommender</th>" + "<td>12,345.6</td>" * len(headings)
    page.goto(served)
    page.click(".b-contents >> text=Blocks")
    page.evaluate(
        "table => document.querySelector('.b-text').insertAdjacentHTML('beforeend', `<div id='seven'>${table}</div>`)",
        finish_table(f"<table><thead><tr>{head}</tr></thead><tbody><tr>{row}</tr></tbody></table>"),
    )
    wide, room = page.evaluate("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('#seven .b-scroll'))")
    assert wide <= room


def test_search_by_keyboard(page: sync_api.Page, start: str) -> None:
    page.goto(start)
    page.keyboard.press("/")
    page.keyboard.type("mathem")
    page.wait_for_selector("#found a")
    assert "Mathematics" in page.inner_text("#found a >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_url("**/text/**mathematics")
    page.keyboard.press("Control+k")
    page.keyboard.type("zzz")
    page.wait_for_function("document.querySelector('.b-none').textContent.includes('Nothing found')")
    page.keyboard.press("Escape")
    assert not page.locator(".b-search").is_visible()


def test_dark_mode_follows_the_system_and_is_remembered(page: sync_api.Page, served: str) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    page.emulate_media(color_scheme="dark")
    page.goto(served)
    dark = page.evaluate(ground)
    page.click(".b-scheme")
    light = page.evaluate(ground)
    assert dark != light == "rgb(255, 255, 255)"
    page.goto(served + "text/")
    assert page.evaluate(ground) == light
    assert page.get_attribute(".b-scheme", "aria-pressed") == "false"


def test_copy_button_copies_the_code(page: sync_api.Page, served: str) -> None:
    page.goto(served + "blocks/")
    block = page.locator(".b-code", has_text="make book")
    block.hover()
    block.locator(".b-copy").click()
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "make book"


def test_folded_code_opens(page: sync_api.Page, served: str) -> None:
    page.goto(served + "run/")
    code = page.locator("text=import numpy")
    assert not code.is_visible()
    page.click("summary >> nth=0")
    assert code.is_visible()


def test_hover_preview_of_a_figure_a_term_and_a_citation(page: sync_api.Page, start: str) -> None:
    page.goto(start)
    page.click(".b-contents >> text=Inline text and references")
    for link, words in (
        ("Figure 2", "A plain figure"),
        ("demand", "Requests per interval"),
        ("Kleinrock, 1975", "Queueing"),
    ):
        page.hover(f"main a:text-is('{link}') >> nth=0")
        page.wait_for_function("words => document.querySelector('.b-preview').innerText.includes(words)", arg=words)
        page.mouse.move(2, 2)
        page.wait_for_selector(".b-preview", state="hidden")


def test_tabs_and_outline(page: sync_api.Page, served: str) -> None:
    page.goto(served + "blocks/")
    page.click("[role=tab] >> text=Shell")
    assert page.locator("text=Shell side.").is_visible()
    assert not page.locator("text=Python side.").is_visible()
    page.goto(served + "text/#sec-deep")
    page.wait_for_selector(".b-outline a[aria-current] >> text=A deeper heading")


def test_phone_has_a_drawer_and_no_sideways_scrolling(browser: sync_api.Browser, served: str) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True)
    page = context.new_page()
    for name in ("", "text/", "blocks/", "figures/", "run/", "references/"):
        page.goto(served + name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert not page.locator(".b-contents").is_visible()
    page.click(".b-menu")
    page.wait_for_selector(".b-contents", state="visible")
    page.keyboard.press("Escape")
    page.wait_for_selector(".b-contents", state="hidden")
    page.click(".b-menu")
    page.click(".b-contents >> text=Glossary")
    assert page.inner_text("h1") == "Glossary"
    context.close()


def test_readable_without_javascript(browser: sync_api.Browser, served: str) -> None:
    context = browser.new_context(viewport=DESK, java_script_enabled=False)
    page = context.new_page()
    page.goto(served + "blocks/")
    assert page.locator("text=Shell side.").is_visible()
    assert not page.locator(".b-find").is_visible()
    context.close()


def _findings(page: sync_api.Page) -> list[str]:
    page.add_script_tag(path=AXE)
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['impact']}: {v['id']} at {v['nodes'][0]['target']} {v['nodes'][0]['failureSummary'][:200]}"
        for v in result["violations"]
        if v["impact"] in ("serious", "critical")
    ]


def _sites(site: Path) -> list[Path]:
    """The fixture site and, where it has been built, the book itself."""
    real = ROOT / "_build" / "html"
    return [site, *([real] if (real / "index.html").exists() else [])]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: run `make install`")
def test_axe_finds_nothing_serious(browser: sync_api.Browser, site: Path, scheme: str) -> None:
    context = browser.new_context(viewport=DESK, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    found = []
    for folder in _sites(site):
        for file in sorted(folder.rglob("*.html")):
            page.goto(f"file://{file}")
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            found += [f"{file.relative_to(folder)}: {f}" for f in _findings(page)]
    context.close()
    assert found == []
