"""Analyses: further measurements of a round, recorded in a ledger of their own."""
