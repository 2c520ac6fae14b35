"""Pages put into their frame and written, with search index, previews, downloads and fixed assets."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from book.theme.assets import fixed_assets
from book.theme.blocks import BLOCKS
from book.theme.cells import CELLS
from book.theme.check import check_site
from book.theme.inline import INLINE
from book.theme.page import Page
from book.theme.site import THEME, Site, ThemeError
from book.theme.text import ROOT, Node

__all__ = ["build"]


def build(source: Path, out: Path, root: Path | None = None) -> list[str]:
    """Render the site in `source` (mystmd's `_build/site`) into `out`; returns the problems, empty if it is fit to publish.

    `root` is the project's folder, by default two above `source`. With problems, `out` is left as it was and the faulty
    site lies beside it, in `<out>.faulty`, for a look. Raises ThemeError if the content cannot be read at all.
    """
    root = root or source.resolve().parent.parent
    site = Site(source, root)
    if site.source.resolve() == out.resolve():
        raise ThemeError(f"--out {out} is the folder of the content. Name another.")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    fresh.chmod(0o755)
    try:
        _write(site, fresh)
        check_site(fresh, site.problems, (f"{root.resolve()}/", f"{Path.home()}/"))
        faulty = out.with_name(f"{out.name}.faulty")
        shutil.rmtree(faulty, ignore_errors=True)
        if site.problems.found:
            fresh.rename(faulty)
        else:
            shutil.rmtree(out, ignore_errors=True)
            fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return site.problems.found


def _write(site: Site, out: Path) -> None:
    jinja = Environment(
        loader=FileSystemLoader(THEME), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True
    )
    template = jinja.get_template("page.html")
    pages = {slug: Page(site, slug, INLINE | BLOCKS | CELLS) for slug in site.slugs}
    bodies = {slug: _index(page) if slug == site.index else page.body() for slug, page in pages.items()}
    marked = dict(enumerate(site.previews))
    set_ = site.set_formulas(bodies | {f"\x00{n}": site.previews[key] for n, key in marked.items()})
    previews = {f"{marked[n][0]}#{marked[n][1]}": set_[f"\x00{n}"] for n in marked if marked[n] in site.wanted}
    parts = _parts(site, pages)
    part_of = {entry["page"].slug: part["title"] for part in parts for entry in part["pages"]}
    common = {"site": site, "parts": parts, "index": site.index, "root": ROOT}
    order = list(pages.values())
    for previous, page, following in zip([None, *order[:-1]], order, [*order[1:], None], strict=True):
        html = template.render(
            **common,
            page=page,
            body=set_[page.slug],
            previous=previous,
            following=following,
            part=part_of.get(page.slug, ""),
            downloads=_downloads(site, page, out),
            missing=False,
        )
        folder = "" if page.slug == site.index else f"{page.slug}/"
        _put(out / folder / "index.html", html.replace(ROOT, "../" * folder.count("/") or "./"))
    base = os.environ.get("BASE_URL", "").rstrip("/")
    lost = template.render(
        **common, page=pages[site.index], body="", previous=None, following=None, part="", downloads=[], missing=True
    )
    head = f'<head>\n<base href="{base}/">' if base else "<head>"
    _put(out / "404.html", lost.replace(ROOT, "./").replace("<head>", head))
    for name, content in fixed_assets().items():
        _put(out / "assets" / name, content)
    _put(out / "assets" / "search.js", f"window.BOOK_SEARCH={_script(site.search_records())};\n")
    short = {k: _preview(v) for k, v in sorted(previews.items())}
    _put(out / "assets" / "previews.js", f"window.BOOK_PREVIEWS={_script(short)};\n")
    for name, published in sorted(site.used.items()):
        _put(out / "build" / published, (site.source / "public" / name).read_bytes())
    for name, content in site.made.items():
        _put(out / "build" / name, content)
    _put(out / ".nojekyll", "")


def _script(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/").replace(ROOT, "\\u0002")


def _preview(html: str) -> str:
    """A preview carries no ids and no links to itself."""
    html = re.sub(r'\sid="[^"]*"', "", html)
    html = re.sub(r'<a class="b-self".*?</a>', "", html)
    return re.sub(r'<details class="b-fold">.*?</details>', "", html, flags=re.DOTALL)


def _put(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def _parts(site: Site, pages: dict[str, Page]) -> list[dict[str, Any]]:
    """The contents: parts with their pages; pages before the first part have a part without a title."""
    parts: list[dict[str, Any]] = [{"title": "", "pages": []}]
    for entry in site.entries:
        if not entry.get("slug"):
            parts.append({"title": entry["title"], "pages": []})
            continue
        if entry.get("level", 1) == 1 and parts[-1]["title"]:
            parts.append({"title": "", "pages": []})
        page = pages[entry["slug"]]
        thumbnail = _thumbnail(site, page, entry.get("thumbnail", ""))
        parts[-1]["pages"].append({"page": page, "number": page.number, "thumbnail": thumbnail})
    for part in parts:
        part["gallery"] = any(e["page"].is_notebook for e in part["pages"])
    return [p for p in parts if p["pages"]]


def _thumbnail(site: Site, page: Page, given: str) -> str:
    """Address of a chapter's small picture: `thumbnail` of its front matter, else `book/thumbnails/<notebook>.svg`."""
    if not page.is_notebook:
        return ""
    if given:
        return page.asset(given)
    file = site.root / "book" / "thumbnails" / f"{Path(page.location).stem}.svg"
    return site.write_asset(file.read_bytes(), ".svg") if file.is_file() else ""


def _downloads(site: Site, page: Page, out: Path) -> list[dict[str, str]]:
    """The notebook to run and the notebook as run, copied into the site."""
    location = page.location.lstrip("/")
    if not location.endswith(".ipynb"):
        return []
    name = Path(location).name
    wanted = [("Notebook", site.root / location, f"downloads/{name}")]
    if location.startswith("_build/executed/"):
        wanted = [
            ("Notebook to run", site.root / "notebooks" / name, f"downloads/{name}"),
            ("Notebook as run, with results", site.root / location, f"downloads/as-run/{name}"),
        ]
    found = []
    for label, file, target in wanted:
        if file.is_file():
            _put(out / target, file.read_bytes())
            found.append({"label": label, "href": ROOT + target, "name": name})
        else:
            page.problem(f"the download {file.relative_to(site.root)} is missing")
    return found


def _index(page: Page) -> str:
    """The landing page: the words before its first figure with the figure beside them, the chapters, then the rest."""
    nodes: list[Node] = [n for b in page.tree["children"] for n in (b["children"] if b["type"] == "block" else [b])]
    kinds = ["figure" if n["type"] == "embed" or n.get("kind") == "figure" else n["type"] for n in nodes]
    end = min((i for i, k in enumerate(kinds) if k in ("figure", "heading")), default=len(nodes))
    words = "".join(page.render(n) for n in nodes[:end])
    shown = "figure" in kinds[end : end + 1]
    picture = f'<div class="b-hero-figure">{page.render(nodes[end])}</div>' if shown else ""
    hero = f'<div class="b-hero-words">{words}</div>{picture}'
    rest = "".join(page.render(n) for n in nodes[end + shown :])
    return f"{hero}\x04{rest}{page.foot()}"
