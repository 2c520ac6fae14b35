"""The book's site theme: pages from the content that mystmd writes. Run it with `python -m book.theme`."""
