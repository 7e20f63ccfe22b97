"""Compensation: how the weights that are kept make up for those that are pruned, without any training."""
