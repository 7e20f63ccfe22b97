"""Rounds: a ticket, its training, and how the next ticket is made from it."""
