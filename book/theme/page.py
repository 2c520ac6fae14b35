"""One page: its tree becomes HTML, and all that the rest of the site needs from it is collected on the way."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from book.theme.blocks import BLOCKS
from book.theme.cells import CELLS
from book.theme.inline import INLINE
from book.theme.text import ROOT, Node, attributes, escape, plain, walk

if TYPE_CHECKING:
    from book.theme.site import Site

__all__ = ["Page"]

HANDLERS = INLINE | BLOCKS | CELLS


class Page:
    """One page of the site, from the JSON that mystmd wrote for it (version 3)."""

    def __init__(self, site: Site, data: dict[str, Any]) -> None:
        self.site, self.data = site, data
        self.slug: str = data["slug"]
        self.location: str = data.get("location", "")
        self.matter: dict[str, Any] = data.get("frontmatter", {})
        self.cited: dict[str, Any] = data.get("references", {}).get("cite", {}).get("data", {})
        self.tree: Node = data["mdast"]
        self.footnotes = {n["identifier"]: n for n in walk(self.tree) if n["type"] == "footnoteDefinition"}
        self.called_footnotes: dict[str, int] = {}
        self.ids: set[str] = set()
        self.outline: list[tuple[int, str, str]] = []  # depth, id, HTML of the heading
        self.uses_math = False
        self.embedding = 0
        self.fresh = 0
        self.alt = ""  # words for the figure of the cell that is being rendered

    @property
    def title(self) -> str:
        """The page's title as text."""
        return str(self.matter.get("title", self.slug))

    @property
    def short_title(self) -> str:
        """The title for contents and previous/next."""
        return str(self.matter.get("short_title", self.title))

    @property
    def is_notebook(self) -> bool:
        """True for a page made from a notebook."""
        return self.data.get("kind") == "Notebook"

    @property
    def number(self) -> str:
        """The chapter's number: that of its notebook (`12_policies.ipynb` is 12), else the one that mystmd counted."""
        leading = re.match(r"0*(\d+)_", PurePosixPath(self.location).name) if self.is_notebook else None
        return leading.group(1) if leading else str(self.matter.get("enumerator") or "")

    def problem(self, what: str) -> None:
        """Record what must stop the build."""
        self.site.problems.add(self.location.lstrip("/") or self.slug, what)

    def render(self, node: Node) -> str:
        """HTML of one node; a node type without a handler is a problem."""
        handler = HANDLERS.get(node["type"])
        if handler is None:
            self.problem(f"the theme has no renderer for {node['type']!r} nodes ({plain(node).strip()[:60]!r})")
            return ""
        return handler(self, node)

    def children(self, node: Node) -> str:
        """HTML of what is in `node`."""
        return "".join(self.render(child) for child in node.get("children", []))

    def anchor(self, node: Node) -> str:
        """The `id` attribute of a labelled node, given out once per page and never for an embedded copy."""
        name = node.get("html_id")
        if not name or name in self.ids or self.embedding:
            return ""
        self.ids.add(name)
        return f' id="{escape(name)}"'

    def unique(self, stem: str) -> str:
        """An id that nothing else on the page has."""
        self.fresh += 1
        return f"{stem}-{self.fresh}"

    def keep(self, node: Node, body: str) -> str:
        """Keep the HTML of something with a label for previews, and pass it on."""
        if (name := node.get("html_id")) and not self.embedding:
            self.site.previews.setdefault((self.slug, name), body)
        return body

    def link(self, url: str) -> str:
        """The relative address of another page; a page that does not exist is a problem."""
        path, _, fragment = url.partition("#")
        slug = self.site.slug_of(path) if path else self.slug
        if slug not in self.site.slugs:
            self.problem(f"link to {url!r} leads to no page of the book")
        way = ROOT + ("" if slug == self.site.index else f"{slug}/") if path else ""
        return way + (f"#{fragment}" if fragment else "") or "./"

    def asset(self, url: str) -> str:
        """The relative address of a file of the book; the file is copied into the site."""
        name = url.lstrip("/")
        published = self.site.use_asset(name)
        if published is None:
            self.problem(f"file {url!r} is missing from the site's content")
        return f"{ROOT}build/{published}"

    def size_of(self, url: str) -> str:
        """`width` and `height` attributes of a PNG or SVG file, so that the page does not jump while it loads."""
        size = self.site.image_size(url.lstrip("/"))
        return attributes(width=size[0], height=size[1]) if size else ""

    def cite_id(self, key: str) -> str:
        """A citation key as part of an id."""
        return re.sub(r"[^A-Za-z0-9_.-]", "-", key)

    def body(self) -> str:
        """HTML of the whole page below its title, with footnotes and references."""
        parts = [self.children(self.tree), self._footnotes()]
        if self.cited and not any(n["type"] == "bibliography" for n in walk(self.tree)):
            parts.append(self.references(self.cited, "References"))
        return "".join(parts)

    def references(self, entries: dict[str, Any], title: str) -> str:
        """A list of references sorted by their text; `title` empty: without a heading."""
        items = []
        for key, entry in sorted(entries.items(), key=lambda e: re.sub(r"<.*?>|\W", "", e[1]["html"]).casefold()):
            text = entry["html"].replace(' target="_blank"', "")
            items.append(f'<li id="cite-{escape(self.cite_id(key))}">{text}</li>')
        heading = f'<h2 id="page-references">{title}</h2>' if title else ""
        if title:
            self.outline.append((2, "page-references", title))
        return f'<section class="b-references">{heading}<ul>{"".join(items)}</ul></section>'

    def _footnotes(self) -> str:
        if not self.called_footnotes:
            return ""
        items = []
        for key, calls in list(self.called_footnotes.items()):
            back = " ".join(
                f'<a href="#fnref-{escape(key)}-{n}" aria-label="Back to the text, call {n}">↩</a>'
                for n in range(1, calls + 1)
            )
            body = self.children(self.footnotes[key])
            body = f"{body[:-4]} {back}</p>" if body.endswith("</p>") else f"{body} {back}"
            items.append(f'<li id="fn-{escape(key)}">{body}</li>')
        return f'<section class="b-footnotes" aria-label="Footnotes"><ol>{"".join(items)}</ol></section>'
