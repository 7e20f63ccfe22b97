"""A project's data: loaders whose order and draws are functions of a seed, the epoch and the batch.

`project_data` is what others ask. `order` and `samplers` stand in for training loaders, `evaluating` for the others.
"""
