"""Atomic writes, and tensor files (safetensors) that carry a digest of their content."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from lottery.foundations.digests import canonical, digest, digest_of
from lottery.foundations.errors import Refused

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Damaged(Exception):
    """A file does not hold what was written to it."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Writes tensors and plain data atomically to one safetensors file, with a digest of both."""
    write_whole(path, tensor_file(tensors, info))


def tensor_file(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> bytes:
    """The bytes of a file of `write_tensors`."""
    import safetensors.torch  # imports PyTorch, which reading plain files should not

    text = canonical(info)
    # one entry only: safetensors writes several in no fixed order, and equal content should be equal bytes
    metadata = canonical({"info": text, "sha256": digest_of([digest(tensors), text])})
    return safetensors.torch.save(dict(tensors), {"lottery": metadata})


_TYPES = {
    "int64": "I64", "float64": "F64", "float32": "F32", "int32": "I32", "bfloat16": "BF16", "float16": "F16",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""Types as a safetensors file names them, in the order in which it holds their tensors."""


def file_size(shapes: Mapping[str, Sequence[int]], types: Mapping[str, torch.dtype], info: Mapping[str, Any]) -> int:
    """The length of a `tensor_file` of tensors of these shapes and types, without any. KeyError for another type.

    >>> import torch
    >>> tensors = {"bias": torch.ones(3), "steps": torch.tensor(7)}
    >>> types = {name: tensor.dtype for name, tensor in tensors.items()}
    >>> file_size({"bias": [3], "steps": []}, types, {}) == len(tensor_file(tensors, {}))
    True
    """
    header: dict[str, Any] = {"__metadata__": {"lottery": canonical({"info": canonical(info), "sha256": "0" * 64})}}
    kinds, order, end = {name: str(types[name]).removeprefix("torch.") for name in shapes}, list(_TYPES), 0
    for name in sorted(shapes, key=lambda name: (order.index(kinds[name]) if kinds[name] in order else -1, name)):
        start, end = end, end + math.prod(shapes[name]) * types[name].itemsize
        header[name] = {"dtype": _TYPES[kinds[name]], "shape": list(shapes[name]), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write_tensors` wrote. Raises Damaged if the content differs; OSError if the file system fails."""
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
    """The mapping in a JSON file; empty if the file is missing, unreadable or holds something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically and durably: after a crash or power cut it has its old or its new content."""
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
        with suppress(OSError):  # it does not exist after the rename, or on a read-only file system
            temporary.unlink()


@contextmanager
def staged(folder: Path, said: str = "") -> Iterator[Path]:
    """A folder beside this one to write into, which takes its place at the end, or is removed if anything fails.

    Raises Refused if none can be made there, or if this one was made meanwhile: then what was written stays. Messages
    begin with `said`. A process that is killed may leave it behind, hidden, and nothing reads it.
    """
    staging = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process that had this number
    made: list[Path] = []
    try:
        made = [each for each in (staging, *staging.parents) if not each.exists()]
        staging.mkdir(parents=True)
    except OSError as error:
        _remove(made)
        raise Refused(f"{said}{folder}: can't be made: {error.strerror}") from error
    try:
        yield staging
        try:
            staging.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise OSError(error.errno, error.strerror, f"{said}{folder}") from error
            made = []
            raise Refused(f"{said}{folder}: was made meanwhile; what was made lies in {staging}") from error
    finally:
        _remove(made)


def _remove(made: Sequence[Path]) -> None:
    """Removes a folder that was made, and those around it that were, as far as nothing else lies in them."""
    if made:
        shutil.rmtree(made[0], ignore_errors=True)
    for folder in made[1:]:
        with suppress(OSError):  # something else lies in it by now
            folder.rmdir()
