"""Files that are there whole or not at all, tensors among them, with a digest of what they hold."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from lottery.foundations.digests import canonical, digest, digest_of

if TYPE_CHECKING:
    from torch import Tensor


class Damaged(Exception):
    """A file is not what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Tensors and plain data as one safetensors file that appears whole, with the digest of both."""
    import safetensors.torch  # with PyTorch, which those who only look do without

    text = canonical(info)
    # one entry only: safetensors writes several in no fixed order, and equal content should be equal bytes
    metadata = canonical({"info": text, "sha256": digest_of([digest(tensors), text])})
    write_whole(path, safetensors.torch.save(dict(tensors), {"lottery": metadata}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises Damaged if it is not; OSError if a file system fails, which is no damage."""
    try:
        open(path, "rb").close()  # safetensors' own errors do not tell one from the other
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["lottery"])
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if digest_of([digest(tensors), metadata["info"]]) != metadata["sha256"]:
            raise Damaged(f"{path} is damaged: its content does not match its digest")
        return tensors, json.loads(metadata["info"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def plain(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty if there is none to be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # on a file system that is read-only it never was
            temporary.unlink()
