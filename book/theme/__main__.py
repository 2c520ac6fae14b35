"""Render the site: `python -m book.theme --site _build/site --out _build/html`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from book.theme.site import Site, SiteError


def main(arguments: list[str] | None = None) -> int:
    """Render and write; exit code 1 with a list of problems if a page may not be published."""
    parser = argparse.ArgumentParser(prog="python -m book.theme", description=__doc__)
    parser.add_argument("--site", type=Path, default=Path("_build/site"), help="what `myst build --site` made")
    parser.add_argument("--out", type=Path, default=Path("_build/html"), help="where the pages go")
    parser.add_argument("--root", type=Path, default=Path(), help="root of the book: notebooks, thumbnails")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        site = Site(options.site, options.root)
        site.render()
        site.write(options.out)
    except (SiteError, FileNotFoundError) as error:
        print(f"the site cannot be published: {error}", file=sys.stderr)
        return 1
    print(f"rendered {len(site.pages)} pages in {time.monotonic() - started:.1f} s into {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
