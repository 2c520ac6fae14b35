"""The book's static theme: site content (JSON, by mystmd) to HTML pages. `python -m book.theme --site ... --out ...`."""
