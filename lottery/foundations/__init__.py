"""Foundations: errors, seeds, digests and files, which know nothing of what is built on them."""
