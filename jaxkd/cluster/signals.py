"""The signals that ask a run to stop."""

# In this order: a scheduler that takes the machine away; Ctrl-C; a closed terminal; Ctrl-\; a warning before the time
# limit by Slurm and others (two signals); a limit of processor time; Ctrl-Break on Windows.
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
