"""The machinery of the book: notebooks from their sources, execution with papermill, the site."""
