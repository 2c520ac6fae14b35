"""Nodes within a line: emphasis, links, cross-references, citations, formulas, footnotes, images."""

from __future__ import annotations

import html
import re

from book.theme.page import Handler, Page, wrap
from book.theme.text import Node, attributes, escape, plain, unbroken

__all__ = ["INLINE"]

TAGS = {
    "emphasis": "em",
    "strong": "strong",
    "delete": "del",
    "subscript": "sub",
    "superscript": "sup",
    "underline": "u",
    "keyboard": "kbd",
}
SCHEME = re.compile(r"^(https?:|mailto:)", re.IGNORECASE)


def text(page: Page, node: Node) -> str:
    """Characters."""
    return unbroken(html.escape(node["value"], quote=False))


def inline_code(page: Page, node: Node) -> str:
    """`code` within a sentence."""
    return f"<code>{html.escape(node['value'], quote=False)}</code>"


def abbreviation(page: Page, node: Node) -> str:
    """An abbreviation with its long form."""
    return f"<abbr{attributes(title=node.get('title'))}>{page.children(node)}</abbr>"


def math(page: Page, node: Node) -> str:
    """A formula that KaTeX has already set; a formula it could not set is a problem."""
    if node.get("error") or node.get("message") or "katex-error" in node.get("html", "") or not node.get("html"):
        page.problem(f"KaTeX cannot set {node.get('value', '')!r}: {node.get('message', 'no result')}")
        return f"<code>{escape(node.get('value', ''))}</code>"
    page.uses_math = True
    if node["type"] == "inlineMath":
        return f'<span class="b-math">{node["html"]}</span>'
    number = f'<span class="b-number">({escape(node["enumerator"])})</span>' if node.get("enumerator") else ""
    body = (
        f'<div class="b-equation"{page.anchor(node)}><div class="b-formula" tabindex="0" role="group"'
        f' aria-label="Equation {escape(node.get("enumerator", ""))}">{node["html"]}</div>{number}</div>'
    )
    return page.keep(node, body)


def link(page: Page, node: Node) -> str:
    """A link to a page of the book, to a file of the book, or out into the world."""
    url, inner = node.get("url", ""), page.children(node)
    if not inner.strip():
        page.problem(f"a link to {url!r} has no text")
    if SCHEME.match(url):
        return f"<a{attributes(href=url, class_=' '.join(filter(None, ['b-out', node.get('class')])), rel='noreferrer')}>{inner}</a>"
    if node.get("static"):
        return f"<a{attributes(href=page.asset(url), download=plain_name(url), class_=node.get('class'))}>{inner}</a>"
    return f"<a{attributes(href=page.link(url), class_=node.get('class'))}>{inner}</a>"


def plain_name(url: str) -> str:
    """The file name a reader gets: mystmd's `data-<32 hex digits>.csv` without the digits.

    Example:
        >>> plain_name("/data-aee0957609b64f4b03ea9748dadffa4d.csv")
        'data.csv'
    """
    return re.sub(r"-[0-9a-f]{32}(?=\.)", "", url.rsplit("/", 1)[-1])


def cross_reference(page: Page, node: Node) -> str:
    """A reference to something with a label, on this page or another."""
    label, target = node.get("label", node.get("identifier")), node.get("html_id") or node.get("identifier", "")
    inner = page.children(node)
    if not node.get("resolved", True) or node.get("error") or not inner.strip():
        page.problem(f"cross-reference {label!r} leads nowhere")
        return f"<span>{inner or escape(label)}</span>"
    slug = page.site.slug_of(node["url"]) if node.get("remote") and node.get("url") else page.slug
    page.site.wanted.add((slug, target))
    kind = "term" if node.get("kind") == "definitionTerm" else "ref"
    href = f"#{target}" if slug == page.slug else f"{page.link('/' + slug)}#{target}"
    return f"<a{attributes(class_=f'b-{kind}', href=href, data_preview=f'{slug}#{target}')}>{inner}</a>"


def cite(page: Page, node: Node) -> str:
    """One citation, with its entry at the foot of the page."""
    key = node.get("label", "")
    if node.get("error") or key not in page.cited:
        page.problem(f"citation {key!r} is not in the bibliography")
        return f"<span>{escape(key)}</span>"
    inner = page.children(node) or escape(key)
    return f"<a{attributes(class_='b-cite', href=f'#cite-{page.cite_id(key)}')}>{inner}</a>"


def cite_group(page: Page, node: Node) -> str:
    """Several citations in one pair of brackets, or in a sentence."""
    inner = [page.render(child) for child in node.get("children", [])]
    return "; ".join(inner) if node.get("kind") == "narrative" else f"({'; '.join(inner)})"


def footnote_reference(page: Page, node: Node) -> str:
    """The number that calls a footnote."""
    key, number = node["identifier"], node.get("enumerator", "*")
    if key not in page.footnotes:
        page.problem(f"footnote {node.get('label', key)!r} has no text")
        return ""
    calls = page.called_footnotes[key] = page.called_footnotes.get(key, 0) + 1
    anchor = f"fnref-{key}-{calls}"
    return f'<sup class="b-footnote"><a id="{escape(anchor)}" href="#fn-{escape(key)}" aria-label="Footnote {escape(number)}">{escape(number)}</a></sup>'


def image(page: Page, node: Node) -> str:
    """A picture; a missing description is a problem unless the author wrote an empty one."""
    url, alt = node.get("url", ""), node.get("alt")
    if alt is None:
        alt = node.get("_caption", "")
        if not alt:
            page.problem(f"image {node.get('urlSource', url)!r} has no alternative text")
    style = f"width:{node['width']}" if node.get("width") else None
    place = {"center": "b-center", "left": "b-left", "right": "b-right"}.get(node.get("align", ""), "")
    if SCHEME.match(url) or url.startswith("/undefined") or not url:
        page.problem(f"image {node.get('urlSource', url)!r} is not in the book")
        return ""
    kind = " ".join(filter(None, ["b-paper", place, node.get("class")]))
    return f'<img{attributes(src=page.asset(url), class_=kind, style=style)} alt="{escape(alt)}"{page.size_of(url)}>'


def caption_number(page: Page, node: Node) -> str:
    """`Figure 3` before a caption; the colon of the template becomes space."""
    words = plain(node | {"type": "span"}).rstrip(":")  # `plain` leaves out a node of this type
    return f'<span class="b-caption-number">{escape(words)}</span> '


INLINE: dict[str, Handler] = {kind: wrap(tag) for kind, tag in TAGS.items()} | {
    "text": text,
    "inlineCode": inline_code,
    "inlineMath": math,
    "math": math,
    "smallcaps": wrap("span", "b-smallcaps"),
    "span": wrap("span"),
    "break": lambda page, node: "<br>",
    "abbreviation": abbreviation,
    "link": link,
    "crossReference": cross_reference,
    "cite": cite,
    "citeGroup": cite_group,
    "footnoteReference": footnote_reference,
    "footnoteDefinition": lambda page, node: "",  # stands at the foot of the page
    "comment": lambda page, node: "",
    "mystTarget": lambda page, node: "",
    "image": image,
    "captionNumber": caption_number,
    "mystRole": Page.children,
    "mystDirective": Page.children,
}
