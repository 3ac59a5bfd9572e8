"""The training run: the one place where all parts meet."""
