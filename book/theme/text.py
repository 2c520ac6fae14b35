"""Small helpers that every part of the renderer shares: escaping, attributes, problems, the text of a node."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ROOT", "Node", "Problems", "attributes", "escape", "has_type", "plain", "unbroken", "walk"]

Node = dict[str, Any]
ROOT = "\x02"  # stands for the way from a page to the site's root; replaced when the page is written


@dataclass
class Problems:
    """What must stop the build, each with its page; `add` records one."""

    found: list[str] = field(default_factory=list)

    def add(self, page: str, what: str) -> None:
        """Record `what` once for `page`."""
        if (line := f"{page}: {what}") not in self.found:
            self.found.append(line)


def unbroken(text: str) -> str:
    """`text` in which a per cent stays on the line of its number.

    Example:
        >>> unbroken("from 3.5 % to 9 %")
        'from 3.5\\xa0% to 9\\xa0%'
    """
    return re.sub(r"(\d) %", "\\1\u00a0%", text)


def escape(text: object) -> str:
    """Text for HTML content and attribute values.

    Example:
        >>> escape('<a "b">')
        '&lt;a &quot;b&quot;&gt;'
    """
    return html.escape(str(text), quote=True)


def attributes(**given: object) -> str:
    """HTML attributes with a leading space; None and False are left out, True is bare, `class_` is `class`.

    Example:
        >>> attributes(class_="a b", id=None, open=True)
        ' class="a b" open'
    """
    parts = []
    for name, value in given.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {name}")
        elif value not in (None, False, ""):
            parts.append(f' {name}="{escape(value)}"')
    return "".join(parts)


def walk(node: Node) -> Iterator[Node]:
    """`node` and everything below it, in reading order."""
    yield node
    for child in node.get("children", []):
        yield from walk(child)


def has_type(node: Node, kind: str) -> bool:
    """True if `node` or something below it is of type `kind`."""
    return any(n["type"] == kind for n in walk(node))


def plain(node: Node) -> str:
    """The words of a node, without mark-up; formulas as their TeX source.

    Example:
        >>> plain({"type": "span", "children": [{"type": "text", "value": "a"}, {"type": "inlineMath", "value": "x"}]}).strip()
        'ax'
    """
    if node["type"] in ("captionNumber", "comment", "footnoteReference"):
        return ""
    if "value" in node:
        return str(node["value"])
    inner = "".join(plain(c) for c in node.get("children", []))
    block = node["type"] in ("paragraph", "heading", "tableCell", "listItem", "definitionTerm", "admonitionTitle")
    return inner + "\n" if block and inner else inner
