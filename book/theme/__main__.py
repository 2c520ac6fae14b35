"""Render the site: `python -m book.theme --site _build/site --out _build/html`. Exit code 1 and a list if a page is faulty."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from book.theme.site import ThemeError
from book.theme.write import build

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Render, print the seconds and the weight, or every problem with its page."""
    parser = argparse.ArgumentParser(prog="python -m book.theme", description=__doc__)
    parser.add_argument("--site", type=Path, default=Path("_build/site"), help="what `myst build --site` wrote")
    parser.add_argument("--out", type=Path, default=Path("_build/html"), help="where the pages go; replaced as a whole")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        problems = build(options.site, options.out)
    except ThemeError as error:
        print(f"theme: {error}", file=sys.stderr)
        return 1
    if problems:
        print(f"theme: {len(problems)} problems; the site was not replaced:", file=sys.stderr)
        print("\n".join(f"  {p}" for p in problems), file=sys.stderr)
        return 1
    files = [f for f in options.out.rglob("*") if f.is_file()]
    weight = sum(f.stat().st_size for f in files) / 1e6
    pages = sum(f.name == "index.html" for f in files)
    print(f"theme: {pages} pages in {time.monotonic() - started:.1f} s, {len(files)} files, {weight:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
