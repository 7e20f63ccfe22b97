"""Analyses: a closer look at rounds than their ledger line, beside it or over a whole study."""
