"""Where the lines of a run go beside its own record: one place a file."""
