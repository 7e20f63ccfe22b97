"""Readers: the modules that read a layer's output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lottery.pruning.calls import holders


def batch_norms(net: nn.Module, names: Iterable[str], run: Callable[[], object], alone: bool = False) -> dict[str, str]:
    """The BatchNorm that reads a layer's output as it is, by the layer's weight, if no other module reads it.

    With `alone`, only where that BatchNorm reads nothing else: what is moved in it moves for all that it reads.
    `run` runs the network. A BatchNorm whose channels are not the layer's outputs, as of a linear layer on sequences,
    is none. What reads an output without being a module, such as the addition of a shortcut, is not seen.
    """
    written = {layer: name for name, layer in holders(net, names)}
    paths = {module: path for path, module in net.named_modules()}
    made: dict[int, tuple[str, Tensor, int]] = {}  # the tensors are kept, so that no identity is used twice
    readers: dict[str, list[str | None]] = {}
    calls = Counter[str]()

    def see(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        calls[paths[module]] += 1
        for given in (*args, *kwargs.values()):
            if id(given) in made and not any(module.children()):
                name, output, version = made[id(given)]
                norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and output._version == version
                readers.setdefault(name, []).append(paths[module] if norm else None)

    def note(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if module in written and isinstance(output, Tensor):
            if isinstance(module, nn.Linear) and output.ndim > 2:  # its last dimension, and not its second
                readers.setdefault(written[module], []).append(None)
            made[id(output)] = written[module], output, output._version

    hooks = [module.register_forward_pre_hook(see, with_kwargs=True) for module in net.modules()]
    hooks += [module.register_forward_hook(note) for module in written]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: norm for name, (norm, *others) in readers.items() if norm and not others}
    return {name: norm for name, norm in found.items() if calls[norm] == 1 or not alone}
