"""Foundations: errors, seeds, digests, durations and files. They import nothing else of ours."""
