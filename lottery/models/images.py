"""Images: the shapes that a network can take."""

from __future__ import annotations

from collections.abc import Sequence


def image(shape: Sequence[int], network: str, halvings: int = 0, smallest: int = 1) -> tuple[int, int, int]:
    """The shape (C, H, W) if a network that pools so often can take it. Raises ValueError if not.

    >>> image([3, 32, 32], "VGG-19", halvings=4, smallest=16)
    (3, 32, 32)
    """
    if len(shape) != 3:
        raise ValueError(f"shape={list(shape)}: {network} takes images of a shape [channels, height, width]")
    channels, height, width = shape
    if min(height, width) < smallest:
        times = {1: "once", 2: "twice", 3: "three times", 4: "four times"}[halvings]
        raise ValueError(
            f"shape={list(shape)}: {network} halves the image {times} and needs at least {smallest}x{smallest}"
        )
    return channels, height, width
