"""Sparse rounds: a thin linear layer trains on its kept values alone and costs what it keeps.

The mathematics is that of a dense layer under its mask: pruned weights take part in no product, and gradients,
optimizer state and updates exist for kept values only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from lottery.pruning.prunable import Prunable
from lottery.training.modules import Module

BREAK_EVEN = 0.2
"""Density below which a LeNet's first layer trains faster sparse than dense. It is a constant, so that results do not
depend on the machine; `make bench` measures the speed-up, and layers of several shapes by themselves."""
SAMPLED = 0.1
"""Density below which the gradient of each kept weight is computed by itself; above, the dense product is faster."""
SMALLEST = 2**14
"""Number of weights in a layer below which calls cost more than products. Measured since, it should be four times as
many; it stays, because every thin round of a LeNet would change its last bits."""

ELEMENTWISE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad)
"""Optimizers that move each weight by its own gradient alone, so that they need not know of pruned ones."""


def reads_across(optimizer: Optimizer) -> bool:
    """Whether an optimizer reads across weights, to clip a norm for one, so that it must not see pruned ones."""
    return type(optimizer) not in ELEMENTWISE or bool(optimizer._optimizer_step_pre_hooks)


def layers(net: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer, everywhere: bool) -> tuple[str, ...]:
    """Names of the weights that train sparse under these masks: those of thin linear layers.

    `everywhere` takes every pruned linear layer, however dense or small. There are none if the optimizer is of a kind
    that may read across weights; one of the others may clip a norm before its step, as gradients of sparse layers are
    those of kept weights alone. A layer that is used twice, shares its weight, has hooks or is a subclass of
    `nn.Linear` stays dense, and so does a frozen one: without gradients it keeps its values, and has no optimizer state
    to save.
    """
    if type(optimizer) not in ELEMENTWISE:
        return ()
    owners: dict[int, int] = {}
    for _, module in net.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = []
    for name, module in net.named_modules():
        mask = masks.get(f"{name}.weight")
        if type(module) is not nn.Linear or mask is None or owners[id(module.weight)] > 1 or _watched(module):
            continue
        if not module.weight.requires_grad:
            continue
        kept = int(mask.count_nonzero())
        thin = mask.numel() >= SMALLEST and kept < BREAK_EVEN * mask.numel()
        if 0 < kept < mask.numel() and (thin or everywhere):
            found.append(f"{name}.weight")
    return tuple(found)


def install(net: nn.Module, masks: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
    """Replaces the linear layers of these weights by sparse ones; the network's state keeps its names and shapes."""
    for name in names:
        owner, _, attribute = name.removesuffix(".weight").rpartition(".")
        module = net.get_submodule(owner)
        setattr(module, attribute, SparseLinear(getattr(module, attribute), masks[name]))


def try_out(
    module: Module,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    prunable: Prunable,
    everywhere: bool = False,
) -> None:
    """Runs a batch forward and backward with every layer sparse that may ever be; the layers stay sparse.

    Raises whatever the network raises, and ValueError if a sparse layer gets no gradient.
    """
    few = {
        name: (torch.arange(weight.numel()) % 50 == 0).view(weight.shape)
        for name, weight in prunable(module.net).items()
    }
    install(module.net, few, layers(module.net, few, optimizer, everywhere))
    module.train()
    module.loss(module(inputs), targets).backward()
    if any(layer.values.grad is None for layer in module.net.modules() if isinstance(layer, SparseLinear)):
        raise ValueError("it has other references to its linear layers: use numerics.sparse=off")


class SparseLinear(nn.Module):
    """A linear layer that holds only the kept values of its weight, row by row; its state is that of a dense layer."""

    rows: Tensor
    columns: Tensor
    turned: Tensor
    turned_rows: Tensor
    turned_columns: Tensor
    places: Tensor
    pattern: Tensor

    def __init__(self, linear: nn.Linear, mask: Tensor) -> None:
        super().__init__()
        mask = mask.to(linear.weight.device)
        self.shape = tuple(mask.shape)
        # two dimensions, so that an optimizer that tells weights from biases by their shape takes it for a weight
        self.values = nn.Parameter(linear.weight.detach()[mask][None])
        self.bias = linear.bias
        rows, columns = mask.nonzero().int().unbind(1)
        turned = columns.argsort(stable=True)  # the values in the order of the transposed weight
        places = {
            "rows": _starts(mask.sum(1)),  # where each row begins among the values, and where the last one ends
            "columns": columns.contiguous(),
            "turned": turned.int(),
            "turned_rows": _starts(mask.sum(0)),
            "turned_columns": rows[turned],
            "places": mask.flatten().nonzero()[:, 0],
        }
        for name, tensor in places.items():
            self.register_buffer(name, tensor, persistent=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*beta state.*")  # PyTorch warns of every CSR tensor
            # not a buffer, because distributed training can't copy sparse ones
            self.pattern = torch.sparse_csr_tensor(
                self.rows, self.columns, torch.zeros_like(self.values.detach()[0]), self.shape, check_invariants=True
            )
        self.sampled = self.values.numel() < SAMPLED * mask.numel()

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(0, -2) if inputs.ndim != 2 else inputs
        outputs = _Product.apply(flat, self.values, self.bias, self).T
        return outputs.unflatten(0, inputs.shape[:-1]) if inputs.ndim != 2 else outputs

    def dense(self) -> Tensor:
        """The dense weight, with exact zeros where it is pruned."""
        weight = self.values.new_zeros(self.shape).flatten()
        return weight.index_copy(0, self.places, self.values.detach()[0]).view(self.shape)

    def _apply(self, fn: Any, recurse: bool = True) -> SparseLinear:
        self.pattern = fn(self.pattern)
        return super()._apply(fn, recurse)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError("its network reads the weight itself: use numerics.sparse=off")
        return super().__getattr__(name)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.dense()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        with torch.no_grad():
            weight = state_dict[f"{prefix}weight"].to(self.values.device)
            self.values.copy_(weight.flatten()[self.places][None])
            if self.bias is not None:
                self.bias.copy_(state_dict[f"{prefix}bias"])


class _Product(torch.autograd.Function):
    """The sparse weight times transposed inputs (N, in), plus bias: (out, N).

    A weighted bag of embeddings is a row of a sparse matrix times a dense one, and faster than the product of
    `torch.sparse`. Activations stay transposed in memory from one sparse layer to the next.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, values: Tensor, bias: Tensor | None, layer: SparseLinear) -> Tensor:
        turned = inputs.T.contiguous()
        ctx.save_for_backward(turned, values)
        ctx.layer = layer
        # detached, or else what embeddings would need for a gradient is computed too
        outputs = _rows_times(layer.columns, layer.rows, values.detach()[0], turned)
        if bias is not None:
            outputs += bias[:, None]
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        turned, values = ctx.saved_tensors
        layer: SparseLinear = ctx.layer
        gradient = gradients[0].contiguous()
        to_inputs = to_bias = None
        if ctx.needs_input_grad[0]:
            across = values[0].index_select(0, layer.turned)
            to_inputs = _rows_times(layer.turned_columns, layer.turned_rows, across, gradient).T
        if layer.sampled:
            to_values = torch.sparse.sampled_addmm(layer.pattern, gradient, turned.T, beta=0.0).values()
        else:
            to_values = torch.mm(gradient, turned.T).flatten().index_select(0, layer.places)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum(1)
        return to_inputs, to_values[None], to_bias, None


def _watched(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _rows_times(columns: Tensor, rows: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    # `functional.embedding_bag` calls the same, after checks that take as long as a small product
    return torch.embedding_bag(dense, columns, rows, per_sample_weights=values, include_last_offset=True)[0]


def _starts(counts: Tensor) -> Tensor:
    return functional.pad(counts.cumsum(0), (1, 0)).int()
