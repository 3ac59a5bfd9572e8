"""Several processes as one run: their addresses, the heartbeat between them, and a supervisor on each host."""
