"""The signals by which a run is asked to end."""

# A scheduler that takes the machine away; a person; a terminal that was closed; Ctrl-\; Slurm and others before
# the end, by either; a limit of processor time; Ctrl-Break on Windows.
ASKING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
