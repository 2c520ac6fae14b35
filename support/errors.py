"""The few named errors of the book: each says what is wrong, where, and how to mend it."""

from __future__ import annotations

__all__ = ["BookError", "SchemaError", "SourceError", "TooShortError", "TraceUnavailableError"]


class BookError(ValueError):
    """Base of the errors a reader can mend; commands print its sentence and exit with code 2.

    Example:
        >>> str(BookError("my.csv: no timestamp column. Name it with timestamp_column=."))
        'my.csv: no timestamp column. Name it with timestamp_column=.'
    """

    def _render_traceback_(self) -> list[str]:
        """Show one line instead of a traceback in IPython, JupyterLab and papermill."""
        return [f"{type(self).__name__}: {self}"]


class SourceError(BookError):
    """A source cannot be read: missing, empty, too large, binary, or of an unknown kind."""


class TraceUnavailableError(SourceError):
    """A registered trace is neither in the cache, nor in BOOK_DATA, nor downloadable."""


class SchemaError(BookError):
    """The data were read but break the contract of a type: column, unit, range, duplicates, order."""


class TooShortError(BookError):
    """The history is too short for what was asked of it."""
