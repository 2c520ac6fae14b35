"""The site: pages in order, links between them, files, search, and a check of every link before anything is published."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2

from book.theme.nodes import Renderer

__all__ = ["Page", "Site", "SiteError"]

HERE = Path(__file__).parent
FONTS = {
    "source-serif-4": ("Source Serif 4 Variable", ("normal", "italic")),
    "source-sans-3": ("Source Sans 3 Variable", ("normal", "italic")),
    "source-code-pro": ("Source Code Pro Variable", ("normal",)),
}


class SiteError(RuntimeError):
    """The site cannot be published; the message lists every page and what is wrong with it."""


@dataclass
class Page:
    """One page of the site as mystmd describes it, and what rendering found out about it."""

    slug: str
    title: str
    short: str
    part: str
    number: str
    content: dict[str, Any]
    alt: str = ""
    cited: dict[str, str] = field(default_factory=dict)
    html: str = ""
    headings: list[tuple[int, str, str]] = field(default_factory=list)
    alts: dict[str, str] = field(default_factory=dict)

    @property
    def mdast(self) -> dict[str, Any]:
        """The document tree."""
        return self.content["mdast"]

    @property
    def citations(self) -> dict[str, Any]:
        """Formatted references by key."""
        return self.content.get("references", {}).get("cite", {}).get("data", {})

    @property
    def notebook(self) -> str:
        """Name of the notebook behind the page, empty for prose."""
        place = PurePosixPath(self.content.get("location", ""))
        return place.stem if place.suffix == ".ipynb" else ""

    @property
    def path(self) -> str:
        """Where the page is written, relative to the site."""
        return "index.html" if self.slug == "index" else f"{self.slug}/index.html"


class Site:
    """Reads `_build/site`, renders every page, checks all links, writes the result; any problem stops it."""

    def __init__(self, source: Path, root: Path) -> None:
        self.source, self.root = source, root
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        self.title = config["title"]
        self.description = config["projects"][0].get("description", "")
        self.problems: list[str] = []
        self.files: set[str] = set()
        self.pages = self._pages(config["projects"][0])

    def _pages(self, project: dict[str, Any]) -> list[Page]:
        pages, part = [], ""
        for entry in [{"slug": project["index"], "title": project["title"], "level": 1}, *project["pages"]]:
            if "slug" not in entry:
                part = entry["title"]
                continue
            content = json.loads((self.source / "content" / f"{entry['slug']}.json").read_text(encoding="utf-8"))
            if content.get("version") != 3:
                raise SiteError(f"{entry['slug']}: content version {content.get('version')}, this theme knows version 3.")
            front = content["frontmatter"]
            page = Page(entry["slug"], front["title"], front.get("short_title") or front["title"], part, front.get("enumerator", ""), content)
            page.alts = self._alts(page)
            pages.append(page)
        return pages

    def _alts(self, page: Page) -> dict[str, str]:
        """Alt texts by figure label, from the `#| alt:` lines of the notebook's cells (mystmd drops them)."""
        place = self.root / page.content.get("location", "").lstrip("/")
        if place.suffix != ".ipynb" or not place.exists():
            return {}
        found = {}
        for cell in json.loads(place.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            label, alt = (re.search(rf"^#\| {key}: (.+)$", text, re.MULTILINE) for key in ("label", "alt"))
            if label and alt:
                found[label.group(1).strip()] = alt.group(1).strip()
        return found

    def render(self) -> None:
        """Render every page in memory; raises SiteError listing all problems of all pages."""
        for page in self.pages:
            renderer = Renderer(page, lambda url, p=page: self._link(p, url), _Assets(self, page).path, lambda told, p=page: self._say(p, told))
            page.html = renderer.render(page.mdast) + renderer.notes()
            page.headings = renderer.headings
        everything = {key: text for page in self.pages for key, text in page.cited.items()}
        for page in self.pages:
            chosen = everything if "<!--bibliography-->" in page.html else page.cited
            listed = "".join(f'<li id="cite-{key}">{text}</li>' for key, text in sorted(chosen.items(), key=lambda i: plain_text(i[1]).lower()))
            block = f'<section class="references"><h2 id="references">References</h2><ul>{listed}</ul></section>' if listed else ""
            page.html = page.html.replace("<!--bibliography-->", f'<ul class="references">{listed}</ul>') if chosen is everything else page.html + block
        self._check_links()
        if self.problems:
            raise SiteError(f"{len(self.problems)} problems, nothing was written:\n  " + "\n  ".join(self.problems))

    def write(self, out: Path) -> None:
        """Write pages, search, styles, fonts, figures and downloads to `out`, replacing what was there."""
        fresh = out.with_name(out.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        template = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True).get_template("page.html")
        for position, page in enumerate(self.pages):
            around = (self.pages[position - 1] if position else None, self.pages[position + 1] if position + 1 < len(self.pages) else None)
            target = fresh / page.path
            target.parent.mkdir(parents=True, exist_ok=True)
            depth = "../" * page.path.count("/")
            target.write_text(template.render(site=self, page=page, up=depth, before=around[0], after=around[1]), encoding="utf-8")
        lost = Page("404", "Page not found", "Not found", "", "", {"mdast": {"type": "root"}, "frontmatter": {}})
        lost.html = "<p>There is no such page. The contents list every page there is.</p>"
        (fresh / "404.html").write_text(template.render(site=self, page=lost, up="", before=None, after=None), encoding="utf-8")
        self._write_files(fresh)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)

    def thumbnail(self, page: Page) -> str:
        """Path of the page's thumbnail in the site, or empty."""
        return f"build/{page.notebook}.svg" if page.notebook and (self.root / "book" / "thumbnails" / f"{page.notebook}.svg").exists() else ""

    def href(self, up: str, page: Page) -> str:
        """Relative address of `page` from a page whose way to the root is `up`."""
        return up + page.path

    def parts(self) -> list[tuple[str, list[Page]]]:
        """Parts in order with their pages, the landing page left out."""
        found: dict[str, list[Page]] = {}
        for page in self.pages[1:]:
            found.setdefault(page.part, []).append(page)
        return list(found.items())

    def _say(self, page: Page, told: str) -> None:
        self.problems.append(f"{page.slug}: {told}")

    def _link(self, page: Page, url: str) -> str:
        if not url.startswith("/") or url.startswith("//"):
            return url
        slug, _, fragment = url.lstrip("/").partition("#")
        known = {p.slug: p for p in self.pages}
        slug = slug or "index"
        if slug not in known:
            name = PurePosixPath(slug).name
            if (self.source / "public" / name).exists():
                self.files.add(name)
                return f"{'../' * page.path.count('/')}build/{name}"
            self._say(page, f"link to a page that does not exist: {url}")
            return url
        return self.href("../" * page.path.count("/"), known[slug]) + (f"#{fragment}" if fragment else "")

    def _check_links(self) -> None:
        """Every internal link must lead to a page and, with a fragment, to an id on it."""
        ids = {p.path: set(re.findall(r'\bid="([^"]+)"', p.html)) | {"main"} for p in self.pages}
        for page in self.pages:
            seen = re.findall(r'\bid="([^"]+)"', page.html)
            for repeated in sorted({i for i in seen if seen.count(i) > 1}):
                self._say(page, f"the id '{repeated}' occurs twice")
            for url in map(unescape, re.findall(r'<a[^>]* href="([^"]*)"', page.html)):
                if re.match(r"[a-z]+:|//", url):
                    continue
                target, _, fragment = url.partition("#")
                parts: list[str] = list(PurePosixPath(page.path).parent.parts)
                for piece in target.split("/"):
                    parts = parts[:-1] if piece == ".." else parts if piece in ("", ".") else [*parts, piece]
                where = page.path if not target else "/".join(parts)
                where = where if where.endswith(".html") else f"{where}/index.html".lstrip("/")
                if where not in ids and PurePosixPath(target).name not in self.files:
                    self._say(page, f"broken link: {url}")
                elif fragment and where in ids and fragment not in ids[where]:
                    self._say(page, f"broken fragment: {url}")

    def _write_files(self, out: Path) -> None:
        build = out / "build"
        build.mkdir()
        for name in sorted(self.files):
            shutil.copy(self.source / "public" / name, build / name)
        downloads = out / "downloads"
        for page in filter(lambda p: p.notebook, self.pages):
            for kind, folder in (("clean", "notebooks"), ("executed", "_build/executed")):
                notebook = self.root / folder / f"{page.notebook}.ipynb"
                if notebook.exists():
                    (downloads / kind).mkdir(parents=True, exist_ok=True)
                    shutil.copy(notebook, downloads / kind / notebook.name)
            if self.thumbnail(page):
                shutil.copy(self.root / "book" / "thumbnails" / f"{page.notebook}.svg", build)
        records = [{"t": p.title, "u": p.path, "h": [(i, n) for _, i, n in p.headings], "x": plain_text(p.html)[:20000]} for p in self.pages]
        (build / "search.js").write_text("window.BOOK_SEARCH=" + json.dumps(records, ensure_ascii=False) + ";\n", encoding="utf-8")
        packages = HERE / "node_modules"
        faces = []
        for package, (family, styles) in FONTS.items():
            for style in styles:
                file = f"{package}-latin-wght-{style}.woff2"
                shutil.copy(packages / "@fontsource-variable" / package / "files" / file, build / file)
                faces.append(f"@font-face{{font-family:'{family}';font-style:{style};font-weight:200 900;font-display:swap;src:url({file}) format('woff2')}}")
        katex = packages / "katex" / "dist"
        shutil.copy(katex / "katex.min.css", build / "katex.css")
        shutil.copytree(katex / "fonts", build / "fonts", ignore=shutil.ignore_patterns("*.ttf", "*.woff"))
        (build / "book.css").write_text("\n".join(faces) + "\n" + (HERE / "book.css").read_text(encoding="utf-8"), encoding="utf-8")
        shutil.copy(HERE / "book.js", build / "book.js")


class _Assets:
    """Files of one page: their place in the site, and their text where an output was stored beside the page."""

    def __init__(self, site: Site, page: Page) -> None:
        self.site, self.page = site, page

    def path(self, url: str) -> str:
        name = PurePosixPath(url).name
        if re.match(r"[a-z]+:", url) or not (self.site.source / "public" / name).exists():
            self.site._say(self.page, f"an image cannot be found: {url}")
            return url
        self.site.files.add(name)
        return f"{'../' * self.page.path.count('/')}build/{name}"

    def read(self, url: str) -> str:
        return (self.site.source / "public" / PurePosixPath(url).name).read_text(encoding="utf-8")


def plain_text(html: str) -> str:
    """Text of some HTML, without tags, formula markup, styles and repeated blanks."""
    html = re.sub(r'<span class="katex-html".*?</span></span></span>|<style.*?</style>|<annotation.*?</annotation>', " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


