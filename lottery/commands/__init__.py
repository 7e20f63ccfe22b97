"""Commands: what is typed, one module for each."""
