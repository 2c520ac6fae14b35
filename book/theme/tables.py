"""Tables from anywhere (MyST, pandas, Styler): numbers set right in columns, empty corners, a frame that scrolls."""

from __future__ import annotations

import html
import re

__all__ = ["finish_table", "finish_tables"]

ROW = re.compile(r"<tr\b[^>]*>.*?</tr>", re.DOTALL)
CELL = re.compile(r"<(th|td)\b([^>]*)>(.*?)</\1>", re.DOTALL)
NUMBER = re.compile(r"^[+\-−±~≈<>≤≥]?\s*[$€£]?\s*[\d,.\u202f\u00a0 ]*\d(\.\d+)?([eE][+\-−]?\d+)?\s*(%|×|s|ms|h|USD)?$")
DENSE_COLUMNS = 7  # from so many on a table is set smaller, so that it fits the text column
BLANK = {"", "–", "-", "—", "nan", "NaN", "…", "n/a"}


def _words(cell: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()


def _with_class(given: str, name: str) -> str:
    return given.replace('class="', f'class="{name} ') if 'class="' in given else f'{given} class="{name}"'


def finish_table(table: str) -> str:
    """One `<table>` made ready for the page.

    Example:
        >>> '<td class="b-num">1.5</td>' in finish_table("<table><tr><td>x</td><td>1.5</td></tr></table>")
        True
    """
    rows = [CELL.findall(row) for row in ROW.findall(table)]
    plain_rows = [r for r in rows if any(tag == "td" for tag, _, _ in r) and not any("span=" in a for _, a, _ in r)]
    width = max((len(r) for r in plain_rows), default=0)
    numeric = set()
    for column in range(width):
        words = [_words(r[column][2]) for r in plain_rows if len(r) == width]
        real = [w for w in words if w not in BLANK]
        if real and all(NUMBER.match(w) for w in real):
            numeric.add(column)

    def finish_row(match: re.Match[str]) -> str:
        cells = CELL.findall(match.group())
        spread = any("colspan=" in given for _, given, _ in cells)  # a header over columns: not one cell a column
        position = -1 if spread else width - len(cells) - 1  # a spanning cell stands left of those that a row has

        def finish_cell(cell: re.Match[str]) -> str:
            nonlocal position
            position += 1
            tag, given, inner = cell.groups()
            if tag == "th" and not _words(inner):
                tag, given = "td", re.sub(r'\s*scope="[^"]*"', "", given)
            if tag == "th" and "col" not in given and len(_words(inner)) < 28:
                given = _with_class(given, "b-short")
            if position in numeric and "b-left-text" not in given and "b-center-text" not in given:
                given = _with_class(re.sub(r'\s*style="text-align:[^"]*"', "", given), "b-num")
            return f"<{tag}{given}>{inner}</{tag}>"

        return CELL.sub(finish_cell, match.group())

    done = ROW.sub(finish_row, _one_head(table))
    done = done.replace('<tr style="text-align: right;">', "<tr>")
    done = re.sub(r'<table border="\d+"', "<table", done)
    kind = "b-table b-dense" if width >= DENSE_COLUMNS else "b-table"
    return f'<div class="{kind}"><div class="b-scroll" tabindex="0" role="group" aria-label="Table">{done}</div></div>'


def _one_head(table: str) -> str:
    """pandas sets the name of the index in a header row of its own: lift it into the corner of the row above."""
    head = re.search(r"<thead>(.*?)</thead>", table, re.DOTALL)
    rows = ROW.findall(head.group(1)) if head else []
    if head is None or len(rows) != 2:
        return table
    upper, lower = CELL.findall(rows[0]), CELL.findall(rows[1])
    if len(upper) != len(lower) or _words(upper[0][2]) or any(_words(inner) for _, _, inner in lower[1:]):
        return table
    merged = CELL.sub(lambda m: f"<th>{lower[0][2]}</th>", rows[0], count=1)
    return table.replace(head.group(), f"<thead>{merged}</thead>", 1)


def finish_tables(markup: str) -> str:
    """Every table in a piece of HTML made ready; scoped styles that pandas adds are dropped."""
    markup = re.sub(r"<style scoped>.*?</style>", "", markup, flags=re.DOTALL)
    return re.sub(r"<table\b.*?</table>", lambda m: finish_table(m.group()), markup, flags=re.DOTALL)
