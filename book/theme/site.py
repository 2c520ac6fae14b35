"""The whole site: what mystmd wrote is read, and what pages share is gathered."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

from book.theme.text import ROOT, Node, Problems, plain, walk

__all__ = ["CONTENT_VERSION", "THEME", "Site", "ThemeError"]

CONTENT_VERSION = 3  # of mystmd's page JSON; another version may mean other nodes
THEME = Path(__file__).resolve().parent
KINDS = {"figure": "Figure", "table": "Table", "code": "Program", "equation": "Equation"}


class ThemeError(RuntimeError):
    """The site's content cannot be read at all."""


class Site:
    """A site from `source` (mystmd's `_build/site`), whose project lies in `root`."""

    def __init__(self, source: Path, root: Path) -> None:
        self.source, self.root, self.problems = source, root, Problems()
        config = source / "config.json"
        if not config.exists():
            raise ThemeError(f"{config} is missing. Run `myst build --site` in the folder of myst.yml first.")
        self.config: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        self.project: dict[str, Any] = self.config["projects"][0]
        self.index: str = self.project["index"]
        self.entries: list[dict[str, Any]] = self.project["pages"]
        self.slugs = [self.index, *(e["slug"] for e in self.entries if e.get("slug"))]
        self.contents = {slug: self._load(slug) for slug in self.slugs}  # the JSON of every page
        self.previews: dict[tuple[str, str], str] = {}
        self.wanted: set[tuple[str, str]] = set()
        self.used: dict[str, str] = {}
        self.made: dict[str, bytes] = {}
        self.formulas: list[tuple[str, str, bool]] = []

    @property
    def title(self) -> str:
        """The book's title."""
        return str(self.config.get("title") or self.project.get("title") or "Book")

    def _load(self, slug: str) -> dict[str, Any]:
        file = self.source / "content" / f"{slug.replace('/', '.')}.json"
        if not file.exists():
            raise ThemeError(
                f"{file} is missing although the contents name {slug!r}. Delete {self.source} and build again."
            )
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if data.get("version") != CONTENT_VERSION:
            raise ThemeError(
                f"{file.name} has content version {data.get('version')}, the theme reads {CONTENT_VERSION}. "
                "Pin mystmd to a version that the theme knows, or teach the theme the new one (book/theme/site.py)."
            )
        return data

    def slug_of(self, url: str) -> str:
        """The page behind one of mystmd's addresses, such as `/text`."""
        return url.split("#")[0].strip("/") or self.index

    def title_of(self, url: str) -> str:
        """The title of the page behind `url`, or the address itself."""
        slug = self.slug_of(url)
        return str(self.contents[slug].get("frontmatter", {}).get("title", slug)) if slug in self.contents else url

    def cited(self, *slugs: str) -> dict[str, Any]:
        """Every citation of these pages: key -> entry."""
        references = (self.contents[slug].get("references", {}) for slug in slugs)
        return {key: entry for r in references for key, entry in r.get("cite", {}).get("data", {}).items()}

    @cached_property
    def labels(self) -> dict[str, tuple[str, str, str]]:
        """Label -> (page, anchor, words for a reference without text)."""
        found: dict[str, tuple[str, str, str]] = {}
        xref = self.source / "myst.xref.json"
        if xref.exists():
            for entry in json.loads(xref.read_text(encoding="utf-8"))["references"]:
                if entry.get("kind") == "page" and entry.get("identifier"):
                    slug = self.slug_of(entry["url"])
                    found[entry["identifier"]] = (slug, "", self.title_of(entry["url"]))
        for slug, content in self.contents.items():
            for node in walk(content["mdast"]):
                named = node.get("html_id") and node.get("label")
                if named and node["type"] not in ("captionNumber", "crossReference"):
                    found.setdefault(node["label"], (slug, node["html_id"], _name(node)))
        return found

    @cached_property
    def alts(self) -> dict[str, str]:
        """Label of a cell -> its `#| alt:`, for copies of its figure on other pages."""
        nodes = (n for content in self.contents.values() for n in walk(content["mdast"]))
        cells = (n for n in nodes if n["type"] == "block" and n.get("html_id"))
        return {n["html_id"]: n["data"]["alt"] for n in cells if (n.get("data") or {}).get("alt")}

    # Files beside the pages

    def use_asset(self, name: str) -> str | None:
        """Mark a file of the content for copying; returns its published name, or None if there is no such file.

        mystmd puts a hash of the file's path into the name; the published name has one of its content, so that two
        machines publish the same bytes.
        """
        if name not in self.used:
            file = self.source / "public" / name
            if not file.is_file():
                return None
            stem = re.sub(r"-?[0-9a-f]{32}$", "", file.stem)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            self.used[name] = f"{stem}-{digest}{file.suffix}" if stem else digest + file.suffix
        return self.used[name]

    def read_asset(self, name: str) -> str:
        """The text of a file of the content."""
        return (self.source / "public" / name).read_text(encoding="utf-8")

    def write_asset(self, content: bytes, suffix: str) -> str:
        """Keep `content` as a file of the site, named by its hash; returns its address."""
        name = hashlib.sha256(content).hexdigest()[:16] + suffix
        self.made[name] = content
        return f"{ROOT}build/{name}"

    def image_size(self, name: str) -> tuple[int, int] | None:
        """Width and height in pixels of a PNG or an SVG that states them."""
        file = self.source / "public" / name
        if file.suffix == ".png" and file.is_file():
            width, height = struct.unpack(">II", file.read_bytes()[16:24])
            return width, height
        if file.suffix == ".svg" and file.is_file():
            head = file.read_text(encoding="utf-8")[:2000]
            wide, high = (re.search(rf'<svg[^>]*\s{k}="([\d.]+)(?:px)?"', head) for k in ("width", "height"))
            return (round(float(wide.group(1))), round(float(high.group(1)))) if wide and high else None
        return None

    # Formulas in outputs (those in the text come set by mystmd)

    def formula(self, page: str, tex: str, *, display: bool) -> str:
        """A mark that `set_formulas` replaces by the set formula."""
        self.formulas.append((page, tex, display))
        return f"\x03{len(self.formulas) - 1}\x03"

    def set_formulas(self, bodies: dict[str, str]) -> dict[str, str]:
        """Set all formulas of outputs by one call of KaTeX; what it cannot set is a problem."""
        if not self.formulas:
            return bodies
        macros = {k: v["macro"] for k, v in self.project.get("math", {}).items()}
        asked = {"macros": macros, "formulas": [{"tex": t, "display": d} for _, t, d in self.formulas]}
        command = ["node", str(THEME / "katex.mjs")]
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, encoding="utf-8")
        if done.returncode:
            raise ThemeError(f"KaTeX did not run: {done.stderr.strip()[-400:]}. Next: npm ci in {THEME.name}/")
        results = json.loads(done.stdout)
        for (page, tex, _), result in zip(self.formulas, results, strict=True):
            if "error" in result:
                self.problems.add(page, f"KaTeX cannot set {tex!r} of an output: {result['error']}")
        html = [f'<span class="b-math">{r.get("html", "")}</span>' for r in results]
        return {k: re.sub("\x03(\\d+)\x03", lambda m: html[int(m.group(1))], v) for k, v in bodies.items()}

    # What the reader can search

    def search_records(self) -> list[dict[str, str]]:
        """One record per section: page title, heading, address, words."""
        records = []
        for slug, content in self.contents.items():
            title, way = self.title_of(slug), "" if slug == self.index else f"{slug}/"
            about = str(content.get("frontmatter", {}).get("description") or "")
            records.append(record := {"p": title, "h": "", "u": way, "b": f"{about}\n"})
            for node in _sections(content["mdast"]):
                if node["type"] == "heading":
                    words, place = " ".join(plain(node).split()), f"{way}#{node.get('html_id', '')}"
                    records.append(record := {"p": title, "h": words, "u": place, "b": ""})
                else:
                    record["b"] += plain(node)
        for record in records:
            record["b"] = " ".join(record["b"].split())
        return records


def _sections(node: Node) -> list[Node]:
    """Headings and text blocks in reading order, without code of cells; Markdown outputs as text."""
    kind = node["type"]
    if node.get("visibility") == "remove" and kind == "block" or kind == "code" and node.get("executable"):
        return []
    if kind == "output":
        content = (node.get("jupyter_data") or {}).get("data", {}).get("text/markdown", {}).get("content", "")
        return [{"type": "text", "value": re.sub(r"[*`|#>\[\]()-]+", " ", content) + "\n"}] if content else []
    if kind in ("root", "block", "container", "outputs", "grid", "card", "tabSet", "tabItem", "details", "glossary"):
        return [part for child in node.get("children", []) for part in _sections(child)]
    return [node]


def _name(node: Node) -> str:
    kind = "equation" if node["type"] == "math" else node.get("kind", "")
    if node.get("enumerator") and kind in KINDS:
        return f"{KINDS[kind]} {node['enumerator']}"
    return " ".join(plain(node).split())[:80]
