"""Notebook cells: code shown, folded or left out; outputs likewise."""

from __future__ import annotations

from book.theme.highlight import highlight
from book.theme.outputs import render_output
from book.theme.page import Handler, Page
from book.theme.text import Node, attributes

__all__ = ["CELLS", "cell_code"]


def block(page: Page, node: Node) -> str:
    """A block of a page, or a cell of a notebook."""
    data, kids = node.get("data") or {}, node.get("children", [])
    tags, has_outputs = data.get("tags", []), any(c["type"] == "outputs" for c in kids)
    if node.get("visibility") == "remove" or "remove-cell" in tags:
        return ""
    page.alt = data.get("alt") or page.alt
    inner = page.children(node)
    page.alt = ""
    if not inner:
        return ""
    if "injected-parameters" in tags:
        inner = f'<p class="b-injected">Parameters of the run that made this page:</p>{inner}'
    if node.get("visibility") == "hide":
        inner = _fold(inner, "Show code and results" if has_outputs else "Show")
    same = any(c.get("html_id") and c.get("html_id") == node.get("html_id") for c in kids)
    anchor = "" if same else page.anchor(node)
    if node.get("kind") == "notebook-code" or has_outputs:
        return f'<div class="b-cell"{anchor}>{inner}</div>'
    css = node.get("class")
    return f"<div{attributes(class_=css)}{anchor}>{inner}</div>" if anchor or css else inner


def cell_code(page: Page, node: Node) -> str:
    """The code of a cell."""
    value = str(node["value"])
    if node.get("visibility") == "remove" or not value.strip():
        return ""
    shown = highlight(value, node.get("lang"))
    body = f'<div class="b-code b-input" data-lang="Python"{page.anchor(node)}>{shown}</div>'
    if node.get("visibility") == "hide":
        lines = value.strip().count("\n") + 1
        return _fold(body, f"Show code ({lines} line{'s' if lines > 1 else ''})")
    return body


def outputs(page: Page, node: Node) -> str:
    """The results of a cell."""
    if node.get("visibility") == "remove":
        return ""
    of_cell, page.alt = page.alt, page.alt or node.get("_alt", "")
    inner = page.children(node)
    page.alt = of_cell
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


CELLS: dict[str, Handler] = {"block": block, "outputs": outputs, "output": output}
