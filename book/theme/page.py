"""One page: its tree becomes HTML by handlers, and all that the rest of the site needs from it is collected on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from book.theme.site import Site
from book.theme.text import ROOT, Node, attributes, escape, has_type, plain, walk

__all__ = ["Handler", "Page", "wrap"]

Handler = Callable[["Page", Node], str]  # HTML of a node of one type


def wrap(tag: str, kind: str = "") -> Handler:
    """Handler of a node that is one HTML element, of class `kind` and of the author's."""

    def handler(page: Page, node: Node) -> str:
        css = " ".join(filter(None, [kind, node.get("class")]))
        return f"<{tag}{attributes(class_=css)}{page.anchor(node)}>{page.children(node)}</{tag}>"

    return handler


class Page:
    """One page of `site`; `handlers`: type of a node -> its handler."""

    def __init__(self, site: Site, slug: str, handlers: Mapping[str, Handler]) -> None:
        self.site, self.slug, self.handlers = site, slug, handlers
        data = site.contents[slug]
        self.location: str = data.get("location", "")
        self.name = self.location.lstrip("/") or slug  # in problems
        self.is_notebook = data.get("kind") == "Notebook"
        self.matter: dict[str, Any] = data.get("frontmatter", {})
        self.title = site.title_of(slug)
        self.short_title = str(self.matter.get("short_title", self.title))  # for contents and previous/next
        self.cited = site.cited(slug)
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
    def number(self) -> str:
        """The chapter's number: that of its notebook (`12_policies.ipynb` is 12), else the one that mystmd counted."""
        leading = re.match(r"0*(\d+)_", PurePosixPath(self.location).name) if self.is_notebook else None
        return leading.group(1) if leading else str(self.matter.get("enumerator") or "")

    def problem(self, what: str) -> None:
        """Record what must stop the build."""
        self.site.problems.add(self.name, what)

    def render(self, node: Node) -> str:
        """HTML of one node; a node type without a handler is a problem."""
        handler = self.handlers.get(node["type"])
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

    def formula(self, tex: str, *, display: bool) -> str:
        """The mark of a formula of an output, which is set when all pages are rendered."""
        self.uses_math = True
        return self.site.formula(self.name, tex, display=display)

    def cite_id(self, key: str) -> str:
        """A citation key as part of an id."""
        return re.sub(r"[^A-Za-z0-9_.-]", "-", key)

    def body(self) -> str:
        """HTML of the whole page below its title, with footnotes and references."""
        return self.children(self.tree) + self.foot()

    def foot(self) -> str:
        """Footnotes that were called so far, and references where no bibliography of the page lists them."""
        listed = not self.cited or has_type(self.tree, "bibliography")
        return self._footnotes() + ("" if listed else self.references(self.cited, "References"))

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
        for key, calls in list(self.called_footnotes.items()):  # a list: a footnote may call others
            back = " ".join(
                f'<a href="#fnref-{escape(key)}-{n}" aria-label="Back to the text, call {n}">↩</a>'
                for n in range(1, calls + 1)
            )
            body = self.children(self.footnotes[key])
            body = f"{body[:-4]} {back}</p>" if body.endswith("</p>") else f"{body} {back}"
            items.append(f'<li id="fn-{escape(key)}">{body}</li>')
        return f'<section class="b-footnotes" aria-label="Footnotes"><ol>{"".join(items)}</ol></section>'
