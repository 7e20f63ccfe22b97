"""Channels: which of them go together, what they are without, and the smaller network without them."""
