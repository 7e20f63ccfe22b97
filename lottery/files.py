"""Files that are there whole or not at all, tensors among them, with a digest of what they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lottery.digests import canonical, digest, digest_of


class Damaged(Exception):
    """A file is not what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Tensors and plain data as one safetensors file that appears whole, with the digest of both."""
    text = canonical(info)
    check = digest_of([digest(tensors), text])
    content = safetensors.torch.save(dict(tensors), {"info": text, "sha256": check})
    replace(path, content)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises Damaged if it is not."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    text = metadata.get("info", "")
    if digest_of([digest(tensors), text]) != metadata.get("sha256"):
        raise Damaged(f"{path} is damaged: its content does not match its digest")
    return tensors, json.loads(text)


def replace(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
