"""Random streams: one replicate's seed gives a separate stream for each purpose."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for one purpose of one replicate; streams of different purposes are unrelated.

    >>> derive(0, "order", 1) == derive(0, "order", 1) != derive(0, "order", 2)
    True
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for that purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
