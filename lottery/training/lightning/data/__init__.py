"""A project's data: its loaders, in an order and with draws that are functions of a seed, the epoch and the batch."""
