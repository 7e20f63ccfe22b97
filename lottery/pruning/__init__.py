"""Pruning: criteria turn evidence into scores, scopes turn scores into masks."""
