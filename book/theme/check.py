"""The last look at the finished site: links and fragments, ids, other hosts, paths of the machine that built it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from book.theme.text import Problems

__all__ = ["check_site"]

LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
LOADED |= {("object", "data"), ("embed", "src"), ("audio", "src"), ("image", "href"), ("use", "href")}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[tuple[str, str, str]] = []
        self.no_alt: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        for name in ("href", "src", "data"):
            if given.get(name) is not None:
                self.links.append((tag, name, str(given[name])))
        if tag == "img" and "alt" not in given:
            self.no_alt.append(str(given.get("src")))


def check_site(out: Path, problems: Problems, private: tuple[str, ...] = ()) -> int:
    """Check every file under `out`; problems are added with their page. Returns the number of links that were followed.

    `private` are strings that must not occur in any text file, such as the folder of the project.
    """
    pages: dict[Path, _Reader] = {}
    for file in sorted(out.rglob("*.html")):
        reader = _Reader()
        reader.feed(file.read_text(encoding="utf-8"))
        pages[file.resolve()] = reader
    followed = 0
    for file, reader in pages.items():
        name = file.relative_to(out.resolve()).as_posix()
        for twice in sorted({i for i in reader.ids if reader.ids.count(i) > 1}):
            problems.add(name, f"the id {twice!r} is given twice")
        for source in reader.no_alt:
            problems.add(name, f"image {source!r} has no alternative text")
        for tag, attribute, url in reader.links:
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") or parts.netloc:
                if (tag, attribute) in LOADED:
                    problems.add(name, f"{tag} loads {url!r} from another host")
                continue
            if parts.scheme in ("mailto", "data"):
                continue
            followed += 1
            if parts.scheme or parts.path.startswith("/"):
                problems.add(name, f"link {url!r} is not relative")
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                problems.add(name, f"broken link {url!r}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                problems.add(name, f"broken fragment {url!r}")
    _texts(out, problems, private)
    return followed


def _texts(out: Path, problems: Problems, private: tuple[str, ...]) -> None:
    for file in sorted(out.rglob("*")):
        if not file.is_file() or file.suffix in (".woff2", ".png", ".jpg", ".webp"):
            continue
        name, text = file.relative_to(out).as_posix(), file.read_text(encoding="utf-8", errors="replace")
        for secret in private:
            if secret in text:
                problems.add(name, f"holds the path {secret!r} of the machine that built it")
        if file.suffix == ".css" and re.search(r"url\(\s*['\"]?(https?:)?//", text):
            problems.add(name, "a style sheet loads something from another host")
