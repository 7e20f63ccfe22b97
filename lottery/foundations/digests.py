"""SHA-256 digests of tensors, plain data and files, and a walk over the leaves of nested data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, independent of their order."""
    import torch

    seen = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        seen.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        seen.update(tensor.flatten().view(torch.uint8).numpy().data)
    return seen.hexdigest()


def canonical(value: Any) -> str:
    """Plain data as canonical JSON: sorted keys, no spaces.

    >>> canonical({"b": 1, "a": [0.1]})
    '{"a":[0.1],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 of plain data as canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes, cached while its modification time and size stay the same."""
    found = os.stat(path)
    return _file_digest(os.path.realpath(path), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _file_digest(path: str, modified: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(value: Any) -> dict[str, str]:
    """Digests of the files that settings name, by the setting's key, since results depend on their content."""
    named = {".".join(key): text for key, text in leaves(value) if isinstance(text, str) and key[-1:] != ("_target_",)}
    return {key: file_digest(text) for key, text in named.items() if os.path.isfile(text)}


def leaves(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every plain value of nested data with the keys that lead to it. Raises ValueError beyond a depth of 50."""
    if len(key) > 50:
        raise ValueError(f"{'.'.join(key)[:40]}... goes deeper than any setting")
    if isinstance(value, Mapping | list):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(item, (*key, str(name)))
    else:
        yield key, value
