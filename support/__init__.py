"""Support package of the book Capacity Under Uncertainty; its rooms carry the names of the book's parts."""
