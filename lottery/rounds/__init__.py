"""Rounds: a ticket and its training; what the next ticket is made of."""
