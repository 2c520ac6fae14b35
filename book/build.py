"""Build the book: notebooks, execution, site content, pages. `python -m book.build [--theme stock]`."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from book import execute, notebooks
from book.chapters import ROOT, chapters, to_notebook

__all__ = ["main", "runtimes_page"]

STOCK_TIMEOUT_SECONDS = 300


def runtimes_page() -> str:
    """The run-time status page as MyST text, from the records of the last execution."""
    rows, total = [], 0.0
    for chapter in chapters():
        record = json.loads((ROOT / "_build" / "executed" / f"{chapter.name}.json").read_text(encoding="utf-8"))
        total += record["seconds"]
        title = to_notebook(chapter.source).metadata["title"]
        given = ", ".join(f"`{k} = {v}`" for k, v in record["parameters"].items()) or "defaults"
        rows.append(f"* - [{title}](../executed/{chapter.name}.ipynb)\n  - {record['seconds']:.1f}\n  - {given}")
    return (
        "---\ntitle: Run times\nnumbering: {title: false, headings: false}\n---\n\n(runtimes-page)=\n# Run times\n\n"
        "Seconds of wall time that each chapter took in the run that made this site, on the machine that built it, two chapters at a time.\n"
        f"The whole book took {total:.0f} s of chapter time.\n\n"
        ":::{list-table}\n:header-rows: 1\n\n* - chapter\n  - seconds\n  - parameters of the run\n"
        + "\n".join(rows)
        + "\n:::\n"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run every step, print its seconds and where the site is; stop with exit code 1 at the first failure."""
    parser = argparse.ArgumentParser(prog="python -m book.build", description=__doc__)
    parser.add_argument("--theme", choices=["own", "stock"], default="own")
    theme = parser.parse_args(arguments).theme
    steps: list[tuple[str, Callable[[], int]]] = [
        ("notebooks", lambda: notebooks.main([])),
        ("execution", lambda: execute.main([])),
        ("pages from the run", _write_pages),
    ]
    steps += (
        [("site by the stock theme", _stock)] if theme == "stock" else [("site content", _content), ("pages", _render)]
    )
    seconds = {}
    for name, step in steps:
        started = time.monotonic()
        code = step()
        seconds[name] = time.monotonic() - started
        if code:
            print(f"make book: the step '{name}' failed; nothing after it was run.", file=sys.stderr)
            return 1
    print("\n".join(["", *(f"{name:<26}{took:7.1f} s" for name, took in seconds.items())]))
    weight = sum(p.stat().st_size for p in (ROOT / "_build" / "html").rglob("*") if p.is_file())
    print(f"The book is in _build/html/index.html ({weight / 1e6:.1f} MB). Open it in a browser, or run `make lab`.")
    return 0


def _write_pages() -> int:
    page = ROOT / "_build" / "pages" / "runtimes.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(runtimes_page(), encoding="utf-8")
    return 0


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _content() -> int:
    shutil.rmtree(ROOT / "_build" / "site", ignore_errors=True)  # myst never cleans it: stale files would ship
    done = subprocess.run([_tool("myst"), "build", "--site", "--strict"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
    return done.returncode


def _render() -> int:
    command = [sys.executable, "-m", "book.theme", "--site", "_build/site", "--out", "_build/html"]
    return subprocess.run(command, cwd=ROOT).returncode


def _stock() -> int:
    """mystmd's own book theme, which it downloads; without a network it says so and the old site is left alone."""
    command = [_tool("myst"), "--config", "myst.stock.yml", "build", "--html"]
    try:
        code = subprocess.run(command, cwd=ROOT, timeout=STOCK_TIMEOUT_SECONDS).returncode
    except subprocess.TimeoutExpired:
        code = 1
    if code:
        print(
            "The stock theme could not be downloaded or built. `make book` builds the book's own theme offline.",
            file=sys.stderr,
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
