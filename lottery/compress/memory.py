"""Memory of a forward pass: what PyTorch's allocator gives out and takes back while a network runs on a CPU."""

from __future__ import annotations

import os
from itertools import accumulate, chain

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile


def peak_bytes(net: nn.Module, *inputs: Tensor) -> int | None:
    """The most bytes that weights, buffers, inputs and a forward pass without gradients take at once on a CPU.

    Beside activations that is the workspace that kernels allocate, so that it may differ among machines. It is no
    process's size: that has the interpreter, libraries, and memory that was freed but is held for later.
    None, not measured, for a network on another device.

    >>> net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False))  # 192 bytes
    >>> peak_bytes(net, torch.zeros(1, 4))  # 16 of inputs, 32 and 8 of activations
    248
    """
    held = {tensor.untyped_storage().data_ptr(): tensor for tensor in chain(net.parameters(), net.buffers(), inputs)}
    if any(tensor.device.type != "cpu" for tensor in held.values()):
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says on stderr that there is no GPU
    with torch.no_grad(), profile(profile_memory=True) as profiled:
        net(*inputs)
    assert profiled.kineto_results is not None
    events = [event for event in profiled.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    running = accumulate((event.nbytes() for event in events), initial=0)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values()) + max(running)
