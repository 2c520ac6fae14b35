"""Outputs of notebook cells to HTML: the best of the formats a cell offers, nothing that needs a kernel."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

from markdown_it import MarkdownIt

__all__ = ["output_html"]

ANSI = re.compile(r"\x1b\[[0-9;]*m")
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def output_html(data: dict[str, Any], alt: str, asset: Callable[[str], str], problem: Callable[[str], None]) -> str:
    """HTML of one Jupyter output; `alt` describes an image, `asset` maps a stored file to its place in the site."""
    kind = data["output_type"]
    if kind == "stream":
        if data.get("name") == "stderr":
            problem(f"stderr reaches the page: {_text(data)[:80]!r}")
        return f'<pre class="stream" tabindex="0">{escape(ANSI.sub("", _text(data)))}</pre>'
    if kind == "error":
        problem(f"an error reaches the page: {data.get('ename')}: {data.get('evalue')}")
        return f'<pre class="error" tabindex="0">{escape(ANSI.sub("", "".join(data.get("traceback", []))))}</pre>'
    formats = data.get("data", {})
    if any("widget" in mime for mime in formats):
        problem("a widget reaches the page; it is dead without a kernel")
    for mime in ("image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/latex", "text/plain"):
        if mime in formats:
            return _rendered(mime, formats[mime], alt, asset, problem)
    problem(f"no renderer for the output formats {sorted(formats)}")
    return ""


def _rendered(mime: str, item: dict[str, Any], alt: str, asset: Callable[[str], str], problem: Callable[[str], None]) -> str:
    if mime.startswith("image/"):
        if not alt:
            problem("a figure has no alt text; add `#| alt:` to its cell")
        return f'<img class="figure" src="{asset(item["path"])}" alt="{escape(alt)}" loading="lazy">' if "path" in item else _text(item)
    content = _text(item) if "path" not in item else asset.__self__.read(item["path"])  # type: ignore[attr-defined]
    if mime == "text/html":
        content = content.replace("<th></th>", "<td></td>").replace(' border="1"', "")
        return f'<div class="wrap" tabindex="0">{content}</div>' if "<table" in content else content
    if mime == "text/markdown":
        return f'<div class="said">{MARKDOWN.render(content)}</div>'
    if mime == "text/latex":
        return f'<div class="latex">{escape(content)}</div>'
    return f'<pre class="stream" tabindex="0">{escape(ANSI.sub("", content))}</pre>'


def _text(item: dict[str, Any]) -> str:
    value = item.get("text", item.get("content", ""))
    return "".join(value) if isinstance(value, list) else str(value)
