"""A live view of running studies on a terminal, over ledgers and heartbeats alone."""
