"""Running: a command line becomes cells, processes and jobs; what is shown meanwhile."""
