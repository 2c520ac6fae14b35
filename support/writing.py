"""Amounts and counts in words, and several small text files written together: all of them or none."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path

from support.errors import BookError

__all__ = ["amount", "plural", "write_together"]


def amount(value: float) -> str:
    """A number of any size for a sentence: whole from 100 on, three significant digits below.

    Example:
        >>> amount(12345.6), amount(-0.04567)
        ('12,346', '-0.0457')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plural(number: float, noun: str) -> str:
    """`number` and `noun`, which gets an s unless the number is 1: any number, a noun without a plural of its own.

    Example:
        >>> plural(1, "day"), plural(0.5, "day"), plural(1200, "usable row")
        ('1 day', '0.5 days', '1,200 usable rows')
    """
    return f"{number:,.15g} {noun}{'' if number == 1 else 's'}"


def write_together(folder: str | Path, texts: Mapping[str, str], *, named_by: str) -> tuple[Path, ...]:
    """Write each text of `texts` (file name -> content) into `folder`, first under temporary names, then renamed.

    The folder is made if it is not there. named_by: the option by which a reader names another folder. Raises BookError
    if one of the files cannot be written; then none is left.

    Example:
        >>> import tempfile
        >>> [p.name for p in write_together(tempfile.mkdtemp(), {"a.txt": "1", "b.txt": "2"}, named_by="--out")]
        ['a.txt', 'b.txt']
    """
    folder = Path(folder)
    pairs = [(folder / f".{name}.{os.getpid()}", folder / name, text) for name, text in texts.items()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for temporary, _, text in pairs:
            temporary.write_text(text, encoding="utf-8")
        if taken := [target for _, target, _ in pairs if target.is_dir()]:  # the last renaming that could still fail
            raise IsADirectoryError(errno.EISDIR, f"{taken[0].name} is a folder there")
        for temporary, target, _ in pairs:
            temporary.replace(target)
    except OSError as error:
        raise BookError(
            f"{folder}: cannot be written ({error.strerror}). Choose another folder with {named_by}."
        ) from None
    finally:
        for temporary, _, _ in pairs:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return tuple(target for _, target, _ in pairs)
