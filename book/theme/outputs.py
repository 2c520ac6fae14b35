"""Jupyter outputs: the richest form that a static page can show; widgets and remote scripts are refused."""

from __future__ import annotations

import html
import re
from typing import Any

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from book.theme.highlight import highlight
from book.theme.page import Page
from book.theme.tables import finish_tables
from book.theme.text import attributes, escape, unbroken

__all__ = ["render_output"]

ORDER = (
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "image/webp",
    "text/html",
    "text/markdown",
    "text/latex",
    "application/json",
    "text/plain",
)
ANSI = re.compile(r"\x1b\[([0-9;]*)m")
OTHER_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")
COLOURS = {"31": "red", "32": "green", "33": "gold", "34": "blue", "35": "purple", "36": "sky", "1": "bold"}
DISPLAY = re.compile(r"^\s*(\$\$|\\\[)(.*?)(\$\$|\\\])\s*$", re.DOTALL)
INLINE = re.compile(r"^\s*\$(.*?)\$\s*$", re.DOTALL)


def without_ansi(text: str) -> str:
    """HTML of terminal text: colours become classes, other control codes go.

    Example:
        >>> without_ansi("\\x1b[31mno\\x1b[0m <x>")
        '<span class="b-ansi-red">no</span> &lt;x&gt;'
    """
    words, *coloured = ANSI.split(OTHER_ANSI.sub("", text))  # words, codes, words, codes, words ...
    parts = [html.escape(words, quote=False)]
    for codes, words in zip(coloured[::2], coloured[1::2], strict=True):
        css = " ".join(f"b-ansi-{COLOURS[c]}" for c in codes.split(";") if c in COLOURS)
        inner = html.escape(words, quote=False)
        parts.append(f'<span class="{css}">{inner}</span>' if css else inner)
    return "".join(parts)


def render_output(page: Page, output: dict[str, Any]) -> str:
    """HTML of one output of a cell."""
    kind = output.get("output_type")
    if kind == "stream":
        css = "b-stderr" if output.get("name") == "stderr" else "b-stdout"
        text = _read(page, output, "text").rstrip()
        return f'<pre class="b-stream {css}" tabindex="0">{without_ansi(text)}</pre>' if text else ""
    if kind == "error":
        trace = output.get("traceback") or f"{output.get('ename')}: {output.get('evalue')}"
        trace = "\n".join(trace) if isinstance(trace, list) else trace
        return f'<pre class="b-stream b-error" tabindex="0">{without_ansi(trace)}</pre>'
    data = output.get("data", {})
    if widgets := [mime for mime in data if "widget" in mime or "bokeh" in mime or "vega" in mime or "plotly" in mime]:
        page.problem(f"an output of type {widgets[0]!r} needs a program behind the page; show a figure or HTML instead")
        return ""
    mime = next((m for m in ORDER if m in data), None)
    if mime is None:
        if data:
            page.problem(f"the theme cannot show an output of type {', '.join(sorted(data))!r}")
        return ""
    entry = data[mime]
    if mime.startswith("image/"):
        return _picture(page, entry, mime)
    content = _read(page, entry, "content")
    if mime == "text/html":
        return _html(page, content)
    if mime == "text/markdown":
        return f'<div class="b-markdown">{_markdown(page, content)}</div>'
    if mime == "text/latex":
        return _latex(page, content)
    if mime == "application/json":
        return f'<div class="b-code">{highlight(content, "json")}</div>'
    return f'<pre class="b-stream" tabindex="0">{without_ansi(content.rstrip())}</pre>'


def _read(page: Page, entry: dict[str, Any], key: str) -> str:
    """The text of an output; mystmd keeps long ones in a file beside the page."""
    if key in entry:
        value = entry[key]
        return "".join(value) if isinstance(value, list) else str(value)
    if path := entry.get("path"):
        return page.site.read_asset(str(path).lstrip("/"))
    page.problem("an output has neither text nor a file")
    return ""


def _picture(page: Page, entry: dict[str, Any], mime: str) -> str:
    alt = page.alt
    if not alt:
        page.problem("a figure has no alternative text: give its cell `#| alt: ...` or `#| caption: ...`")
    if "path" in entry:
        source, size = page.asset(entry["path"]), page.size_of(entry["path"])
    elif mime == "image/svg+xml":
        source, size = page.site.write_asset(entry["content"].encode(), ".svg"), ""
    else:
        page.problem(f"the file of a {mime} output is missing")
        return ""
    return f'<img class="b-paper" src="{escape(source)}" alt="{escape(alt)}"{size}>'


def _html(page: Page, content: str) -> str:
    if re.search(r"<script\b", content, re.IGNORECASE):
        page.problem("an HTML output carries a script; the book's pages run none but their own")
    paper = " b-sheet" if re.search(r"background(-color)?\s*:", content) else ""
    return f'<div class="b-html{paper}">{finish_tables(content)}</div>'


def _markdown(page: Page, content: str) -> str:
    def formula(tex: str, options: dict[str, Any]) -> str:
        return page.formula(tex, display=options["display_mode"])

    reader = MarkdownIt("commonmark", {"html": True, "typographer": False}).enable(["table", "strikethrough"])
    reader.use(dollarmath_plugin, renderer=formula, double_inline=True, allow_space=False, allow_digits=False)
    body = finish_tables(str(reader.render(unbroken(content))))
    body = re.sub(r"<(/?)h1\b", r"<\1h2", body)
    return re.sub(r'<a href="(?![a-z]+:)([^"]*)">(.*?)</a>', lambda m: _reference(page, m), body, flags=re.DOTALL)


def _reference(page: Page, match: re.Match[str]) -> str:
    """A `[text](#label)` written by a cell leads to the label, on whichever page it is."""
    url, inner = html.unescape(match.group(1)), match.group(2)
    label = url.lstrip("#")
    target = page.site.labels.get(label)
    if not url.startswith("#") or target is None:
        page.problem(f"a Markdown output links to {url!r}, which is no label of the book")
        return inner
    slug, anchor, name = target
    page.site.wanted.add((slug, anchor))
    href = ("" if slug == page.slug else page.link(f"/{slug}")) + (f"#{anchor}" if anchor else "")
    return f"<a{attributes(class_='b-ref', href=href, data_preview=f'{slug}#{anchor}')}>{inner or escape(name)}</a>"


def _latex(page: Page, content: str) -> str:
    if found := DISPLAY.match(content):
        tex = found.group(2)
    elif found := INLINE.match(content):
        tex = found.group(1).replace("\\displaystyle", "", 1)
    else:
        tex = content.strip()
    return page.formula(tex, display=True)
