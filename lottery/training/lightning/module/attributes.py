"""What a module has that training changes and no state holds: attributes that are neither parameters nor buffers."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
PLAIN = (bool, int, float, str, list, tuple, dict, set, deque, Tensor, np.ndarray)


def unkept(fresh: nn.Module, trained: nn.Module) -> dict[str, Any]:
    """The attributes in which a trained module differs from a fresh one and that `state_dict` lacks, by path.

    >>> one, other = (nn.Sequential(nn.Linear(2, 2)) for _ in range(2))
    >>> other[0].seen, other.rng = [1.0], torch.Generator()
    >>> sorted(unkept(one, other))
    ['0.seen', 'rng']
    """
    before = dict(fresh.named_modules())
    found = {}
    for path, part in trained.named_modules():
        was = vars(before[path]) if path in before else {}
        for name, value in vars(part).items():
            own = name[0] != "_" and name != "training" and isinstance(value, GENERATORS + PLAIN)
            if own and _text(value) != _text(was.get(name)):
                found[f"{path}.{name}" if path else name] = value
    return found


def remedy(found: dict[str, Any]) -> str:
    """What to do about it, as the end of a sentence.

    >>> remedy({"seen": 3})
    'register it as a buffer; what has changed is seen (int)'
    """
    drawn = "draw from torch, numpy.random or random, and from no generator of its own"
    if found and all(isinstance(value, GENERATORS) for value in found.values()):
        told = drawn
    else:
        told = "register it as a buffer" if found else f"register it as a buffer, and {drawn}"
    named = ", ".join(f"{name} ({type(value).__name__})" for name, value in list(found.items())[:3])
    return f"{told}; what has changed is {named}" if named else told


def _text(value: Any) -> str:
    if isinstance(value, torch.Generator):
        return str(value.get_state().tolist())
    if isinstance(value, random.Random):
        return str(value.getstate())
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return str(value.get_state(legacy=False))
    return repr(value)
