"""Coloured listings: Pygments' short class names; the colours are in book.css, for both schemes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache

from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

__all__ = ["highlight"]


@cache
def _lexer(lang: str) -> Lexer | None:
    try:
        return get_lexer_by_name({"ipython": "python", "ipython3": "python"}.get(lang, lang))
    except ClassNotFound:
        return None


def highlight(code: str, lang: str | None, *, lines: bool = False, marked: Sequence[int] = (), first: int = 1) -> str:
    """A `<pre>` of `code`; with line numbers if `lines`, lines in `marked` (1-based) set off.

    Example:
        >>> highlight("1 < 2", None)
        '<pre tabindex="0"><code><span class="b-line">1 &lt; 2</span></code></pre>'
    """
    lexer = _lexer(lang) if lang else None
    if lexer is None:
        coloured = html.escape(code, quote=False)
    else:
        formatter = HtmlFormatter(nowrap=True)
        parts: list[str] = []
        formatter.format(lexer.get_tokens(code), type("Out", (), {"write": staticmethod(parts.append)})())
        coloured = "".join(parts)
    rows = coloured.rstrip("\n").split("\n")
    chosen = {int(m) for m in marked}
    out = []
    for number, row in enumerate(rows, first):
        css = "b-line b-marked" if number in chosen else "b-line"
        count = f' data-n="{number}"' if lines else ""
        out.append(f'<span class="{css}"{count}>{row}</span>')
    return '<pre tabindex="0"><code>' + "\n".join(out) + "</code></pre>"
