"""Running: a command line becomes cells, processes and jobs, whose progress is shown."""
