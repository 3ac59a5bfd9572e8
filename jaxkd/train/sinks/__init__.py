"""Sinks: services that show a run, beside the log in its workdir; one a module."""
