"""Networks, one file a family: plain factories that draw their weights from torch's global generator.

Parameters are registered in the order of the forward pass: the last prunable one is the output layer.
"""
