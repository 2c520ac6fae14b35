"""Write notebooks/*.ipynb from notebooks/*.md: `python -m book.notebooks [--check | --copies FOLDER]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat

from book.chapters import Chapter, chapters, to_notebook
from book.copies import copy_to
from support.writing import plural

__all__ = ["main", "text_of"]


def text_of(chapter: Chapter) -> str:
    """The .ipynb text that belongs to the chapter's source."""
    return nbformat.writes(to_notebook(chapter.source)) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write (or with --check compare) every notebook; exit code 1 if --check finds one that differs."""
    parser = argparse.ArgumentParser(prog="python -m book.notebooks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a notebook is not up to date")
    parser.add_argument(
        "--copies", metavar="FOLDER", type=Path, help="only put your own copies into FOLDER, where it lacks them"
    )
    options = parser.parse_args(arguments)
    check, known = options.check, chapters()
    if options.copies is not None:
        made = copy_to(options.copies, known)
        print(
            f"{options.copies}/ holds your own copies, {len(made)} of {plural(len(known), 'chapter')} new. What you change "
            "and run there is kept; to have one anew, delete it and start again."
        )
        return 0
    changed = [c for c in known if not c.notebook.exists() or c.notebook.read_text(encoding="utf-8") != text_of(c)]
    orphans = (
        sorted({p.stem for p in known[0].notebook.parent.glob("*.ipynb")} - {c.name for c in known}) if known else []
    )
    for orphan in orphans:
        print(f"notebooks/{orphan}.ipynb has no source: delete it, or write notebooks/{orphan}.md")
    for chapter in changed:
        if not check:
            chapter.notebook.write_text(text_of(chapter), encoding="utf-8")
        print(f"{'differs from' if check else 'written from'} its source: notebooks/{chapter.name}.ipynb")
    print(f"notebooks: {len(known)} chapters, {len(changed)} {'out of date' if check else 'written'}")
    if check and changed:
        print("Next: `make notebooks` writes them from their .md, which is the source.")
    return 1 if orphans or (check and changed) else 0


if __name__ == "__main__":
    sys.exit(main())
