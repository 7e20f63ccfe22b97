"""Data: labelled tensors in memory, split, normalised and cut into batches."""
