"""Notebook cells: code shown, folded or left out; outputs likewise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from book.theme.highlight import highlight
from book.theme.outputs import render_output
from book.theme.text import Node, attributes

if TYPE_CHECKING:
    from book.theme.page import Page

__all__ = ["CELLS", "cell_code"]


def block(page: Page, node: Node) -> str:
    """A block of a page, or a cell of a notebook."""
    if node.get("visibility") == "remove" or "remove-cell" in (node.get("data") or {}).get("tags", []):
        return ""
    kids = node.get("children", [])
    same = any(c.get("html_id") and c.get("html_id") == node.get("html_id") for c in kids)
    if alt := (node.get("data") or {}).get("alt"):
        page.alt = alt
    inner = page.children(node)
    page.alt = ""
    if inner and "injected-parameters" in (node.get("data") or {}).get("tags", []):
        inner = f'<p class="b-injected">Parameters of the run that made this page:</p>{inner}'
    if not inner:
        return ""
    if node.get("visibility") == "hide":
        inner = _fold(inner, "Show code and results" if any(c["type"] == "outputs" for c in kids) else "Show")
    anchor = "" if same else page.anchor(node)
    if node.get("kind") == "notebook-code" or any(c["type"] == "outputs" for c in kids):
        return f'<div class="b-cell"{anchor}>{inner}</div>'
    css = node.get("class")
    return f"<div{attributes(class_=css)}{anchor}>{inner}</div>" if anchor or css else inner


def cell_code(page: Page, node: Node) -> str:
    """The code of a cell."""
    if node.get("visibility") == "remove":
        return ""
    value = str(node["value"])
    if not value.strip():
        return ""
    body = (
        f'<div class="b-code b-input" data-lang="Python"{page.anchor(node)}>{highlight(value, node.get("lang"))}</div>'
    )
    if node.get("visibility") == "hide":
        lines = value.strip().count("\n") + 1
        return _fold(body, f"Show code ({lines} line{'s' if lines > 1 else ''})")
    return body


def outputs(page: Page, node: Node) -> str:
    """The results of a cell."""
    if node.get("visibility") == "remove":
        return ""
    if node.get("_alt") and not page.alt:
        page.alt = node["_alt"]
    inner = page.children(node)
    if not inner:
        return ""
    body = f'<div class="b-outputs"{page.anchor(node)}>{inner}</div>'
    return _fold(body, "Show output") if node.get("visibility") == "hide" else body


def output(page: Page, node: Node) -> str:
    """One result."""
    anchor = page.anchor(node)
    body = render_output(page, node.get("jupyter_data") or {})
    return f'<div class="b-output"{anchor}>{body}</div>' if body else ""


def _fold(body: str, label: str) -> str:
    return f'<details class="b-fold"><summary>{label}</summary>{body}</details>'


CELLS: dict[str, Callable[[Page, Node], str]] = {"block": block, "outputs": outputs, "output": output}
