"""Pruning: evidence becomes scores, scores become masks."""
