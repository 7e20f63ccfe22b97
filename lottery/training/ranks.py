"""Ranks: processes that train one phase together. The first runs the cell, the others only train with it.

Each rank has an equal share of every batch, and gradients are averaged. The result is that of one process up to
rounding, except for dropout and BatchNorm: each rank draws its own noise and normalises its own share. A process that
trains alone is rank 0 of 1, and none of these functions has an effect.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, multiprocessing
from torch.distributed import TCPStore

from lottery.foundations.errors import Said, describe

T = TypeVar("T")

# Rank 0 may wait long for a phase that another job trains; a dead peer is noticed at once.
_PATIENCE = timedelta(days=30)


class Broken(Said):
    """Processes that train together can't go on."""


def share() -> tuple[int, int]:
    """(rank, number of ranks)."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@contextmanager
def alone() -> Iterator[None]:
    """Within the context this process is rank 0 of 1, for us, torchmetrics and all who ask whether there are others.

    They ask `torch.distributed.is_initialized`; its `get_world_size` and a Trainer's are as before. Evaluated by one
    rank, or by each on all the data, a metric would else wait for the others, or add up what they have seen of the
    same data.
    """
    own = distributed.is_initialized
    distributed.is_initialized = lambda: False
    try:
        yield
    finally:
        distributed.is_initialized = own


def stream(rank: int) -> tuple[str, int] | tuple[()]:
    """Part of the purpose of what a rank draws; the first has none, so that it draws what one process would."""
    return ("rank", rank) if rank else ()


def agree(value: T) -> T:
    """Broadcasts rank 0's value to all ranks."""
    if share()[1] == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def sum_(tensor: Tensor) -> Tensor:
    """Sums a tensor over all ranks, in place."""
    if share()[1] > 1:
        distributed.all_reduce(tensor)
    return tensor


def copy_first_(tensors: Iterable[Tensor]) -> None:
    """Broadcasts rank 0's tensors, in place: buffers such as BatchNorm's statistics differ from rank to rank."""
    if share()[1] > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def everyone(tensor: Tensor) -> list[Tensor]:
    """Gathers a tensor from all ranks, in order of rank."""
    if share()[1] == 1:
        return [tensor]
    values = [torch.empty_like(tensor) for _ in range(share()[1])]
    distributed.all_gather(values, tensor)
    return values


def everyone_says(value: T) -> list[T]:
    """Gathers any value from all ranks, in order of rank."""
    values: list[Any] = [value]
    if share()[1] > 1:
        values *= share()[1]
        distributed.all_gather_object(values, value)
    return values


@contextmanager
def gathered(count: int, serve: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Makes this process rank 0 of `count`; the other ranks call `serve(*arguments)` in child processes.

    The children end with this process, however it ends. Raises Broken if one of them fails.
    """
    if count == 1:
        yield
        return
    board = TCPStore("localhost", 0, count, is_master=True, wait_for_workers=False)
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)  # a fresh child gets its name, and does not know `loky`
    try:
        others = multiprocessing.start_processes(
            _serve, (count, board.port, serve, arguments), nprocs=count - 1, join=False, start_method="spawn"
        )
    finally:
        multiprocessing.set_start_method(usual, force=True)
    assert others is not None

    def look() -> None:
        if ended := [process.exitcode for process in others.processes if process.exitcode is not None]:
            raise Broken(
                f"another of the {count} processes of this cell ended with code {ended[0]} before it could train"
            )

    try:
        with leading(count, board, look):
            yield
        for process in others.processes:
            process.join(10)
    except RuntimeError as error:  # a broken connection raises this
        for process in others.processes:
            process.join(5)
        ended = [f"failed {rank}" for rank, process in enumerate(others.processes, 1) if process.exitcode]
        said = [board.get(key).decode() for key in ended if board.check([key])]
        own = [why for why in said if "onnection" not in why]
        if own or len(said) < len(ended):  # else they have ended because this one has left them
            why = f": {own[0]}" if own else ""
            raise Broken(f"another of the {count} processes of this cell ended, and training with it{why}") from error
        raise
    finally:
        for process in others.processes:
            process.kill()  # it has nothing to save
            process.join()


@contextmanager
def leading(count: int, board: TCPStore, look: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Makes this process rank 0 of `count`, as soon as all others are at the board; until then `look` is polled."""
    try:
        while not board.check([f"here {rank}" for rank in range(1, count)]):
            look()
            time.sleep(0.05)
        _join(0, count, board)
        yield
        agree(None)  # lets the others end
    finally:
        leave()


def leave() -> None:
    """Leaves the other ranks, which then see a broken connection."""
    with suppress(RuntimeError, ValueError, AssertionError):  # never joined, or the connection is gone already
        distributed.destroy_process_group()
    os.environ.pop("LOCAL_RANK", None)


def following(rank: int, count: int, board: TCPStore, serve: Callable[[], None]) -> None:
    """Makes this process a rank other than the first while it calls `serve`."""
    board.set(f"here {rank}", "")
    _join(rank, count, board)
    try:
        serve()
    except Exception as error:
        board.set(f"failed {rank}", describe(error))
        raise
    distributed.destroy_process_group()


def _serve(index: int, count: int, port: int, serve: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    board = TCPStore("localhost", port, count, wait_for_workers=False)
    following(index + 1, count, board, lambda: serve(*arguments))


def _join(rank: int, count: int, board: TCPStore) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=board, rank=rank, world_size=count, timeout=_PATIENCE)
