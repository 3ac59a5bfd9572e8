"""Data sources, one a file, and the loader that makes batches of their pictures."""
