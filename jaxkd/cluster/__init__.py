"""Several processes as one run: who they are, whether all came, and what becomes of the others when one is lost."""
