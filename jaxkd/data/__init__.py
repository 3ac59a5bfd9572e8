"""Data sources, one a file, and what lies between them and the step."""
