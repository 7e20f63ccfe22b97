"""Any classifier of torchvision, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torchvision
from torch import nn

from lottery.models.images import image
from lottery.models.pretrained import load_, pretrained

AUXILIARY = ("googlenet", "inception_v3")


def torchvision_model(
    name: str, shape: Sequence[int], classes: int, weights: str | None = None, **more: Any
) -> nn.Module:
    """torchvision's network `name` with its own initialisation; `more` are further arguments of its factory.

    Auxiliary outputs, which GoogLeNet and Inception give in training, are left out unless `aux_logits` asks for them.

    `weights` are torchvision's by name, such as IMAGENET1K_V2, which it downloads once, or the path of a
    .safetensors file. With weights for another number of classes, only the last layer is drawn anew.

    Raises ValueError for a name, a shape or weights that don't fit.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = get_close_matches(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else "its list_models() names them"
        raise ValueError(f"name={name}: torchvision has no such classifier; {hint}")
    channels, *sides = image(shape, name)
    if channels != 3:
        raise ValueError(f"shape={list(shape)}: {name} takes images of 3 channels, not {channels}")
    if name in AUXILIARY:  # a loss must be written for their auxiliary outputs
        more = {"aux_logits": False, **more}
    try:
        net = torchvision.models.get_model(name, weights=None, num_classes=classes, **more)
    except AssertionError as error:  # a vision transformer's patches don't divide its images
        raise ValueError(f"{name} can't be built: {error}") from error
    side = getattr(net, "image_size", None)  # vision transformers are built for one size
    if side is not None and sides != [side, side]:
        raise ValueError(f"shape={list(shape)}: {name} is built for {side}x{side} images; image_size sets another size")
    if weights is None:
        return net
    if weights.endswith(".safetensors"):
        return pretrained(net, weights)
    offered = torchvision.models.get_model_weights(name)
    if weights not in offered.__members__:
        raise ValueError(
            f"weights={weights}: must be {', '.join(offered.__members__)} or a path to a .safetensors file"
        )
    try:
        # only tensors, of the published hash: no code of a pickle is run
        tensors = offered[weights].get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network, or not the published file
        raise ValueError(f"weights={weights}: can't be downloaded ({error})") from error
    return load_(net, tensors, weights)
