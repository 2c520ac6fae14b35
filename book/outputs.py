"""What must not reach a page: stderr, warnings, widgets, bare reprs, errors, results that only a kernel can show."""

from __future__ import annotations

import re

from nbformat import NotebookNode

__all__ = ["output_problems"]

REPR = re.compile(r"<(?:[\w.]*(?:Axes|Figure)\b[:\s(]|[\w.]+ (?:object )?at 0x|[\w.]+ object\b)[^>]*>")
WARNING = re.compile(r"\b\w*Warning\b: |^\s*warnings\.warn\(", re.MULTILINE)
ABSOLUTE = re.compile(r"(?<![\w./:])/(home|root|Users|tmp|work|private|opt)/[\w.-]+")


def output_problems(notebook: NotebookNode) -> list[str]:
    """One sentence for each output that nobody meant, naming the cell; an empty list means the page is clean.

    Example:
        >>> from nbformat.v4 import new_code_cell, new_notebook, new_output
        >>> cell = new_code_cell("1", outputs=[new_output("stream", name="stderr", text="oops")])
        >>> output_problems(new_notebook(cells=[cell]))
        ["cell 0: writes to stderr: 'oops'"]
    """
    found: list[str] = []
    if "widgets" in notebook.metadata:
        found.append("the notebook's metadata hold widget state: switch progress bars off or use support.plotting")
    for position, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            found += [f"cell {position}: {problem}" for problem in _problems(output)]
    return found


def _problems(output: NotebookNode) -> list[str]:
    if output.output_type == "error":
        return [f"raised {output.ename}: {output.evalue[:300]}"]
    if output.output_type == "stream":
        if output.name == "stderr":
            return [f"writes to stderr: {output.text.strip()[:200]!r}"]
        return _text_problems(output.text)
    data = output.data
    if any("widget" in mime for mime in data):
        return ["shows a widget, which is dead on a page"]
    if set(data) == {"text/plain"}:
        return [f"shows a bare repr: {data['text/plain'][:80]!r}; print it, display it as Markdown, or end with `;`"]
    text = "".join(str(value) for mime, value in data.items() if mime in ("text/html", "text/markdown"))
    return _text_problems(text) if text else []


def _text_problems(text: str) -> list[str]:
    found = []
    if WARNING.search(text):
        found.append(f"shows a warning: {WARNING.search(text).group(0)!r}")  # type: ignore[union-attr]
    if REPR.search(text):
        found.append(f"shows an object's repr: {REPR.search(text).group(0)!r}")  # type: ignore[union-attr]
    if path := ABSOLUTE.search(text):
        found.append(f"shows a path of the machine it ran on: {path.group(0)!r}")
    return found
