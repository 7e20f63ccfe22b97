"""Attention with fewer heads, which are then together narrower than the embedding (Michel et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class FewerHeads(nn.MultiheadAttention):
    """PyTorch's attention, whose weights have rows for some heads only.

    A network's attention becomes one by its class, so that it has no constructor of its own.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As PyTorch's."""
        weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        inputs: tuple[Tensor, ...] = (query, key, value)
        if query.ndim == 2:
            inputs = tuple(each[None] for each in inputs)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            inputs = tuple(each.transpose(0, 1) for each in inputs)
        queries, keys, values = (
            functional.linear(each, weight, bias).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for each, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        mask = None if attn_mask is None else _added(attn_mask, query)
        if mask is not None and mask.ndim == 3:  # one for each head of each example
            mask = mask.view(len(queries), self.num_heads, *mask.shape[1:])
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, query)[:, None, None, :]
            mask = padding if mask is None else mask + padding
        dropout = self.dropout if self.training else 0.0
        shares = None
        if need_weights:
            shares = (queries * self.head_dim**-0.5) @ keys.transpose(-2, -1)
            shares = functional.dropout((shares if mask is None else shares + mask).softmax(-1), dropout)
            found = shares @ values
            shares = shares.mean(1) if average_attn_weights else shares
        else:
            found = functional.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        outputs = self.out_proj(found.transpose(1, 2).flatten(2))
        if query.ndim == 2:
            return outputs[0], None if shares is None else shares[0]
        return outputs if self.batch_first else outputs.transpose(0, 1), shares


def removable(layer: nn.Module) -> bool:
    """Whether a layer is attention that can have fewer heads."""
    return (
        type(layer) in (nn.MultiheadAttention, FewerHeads)
        and isinstance(layer.in_proj_weight, Tensor)
        and layer.bias_k is None
        and not layer.add_zero_attn
    )


def check_heads(layer: nn.MultiheadAttention, kept: Sequence[int]) -> None:
    """Raises ValueError unless these rows of its first weight are the same whole heads of queries, keys and values."""
    third, width = len(layer.in_proj_weight) // 3, layer.head_dim
    heads = sorted({row // width for row in kept if row < third})
    whole = [part * third + head * width + i for part in range(3) for head in heads for i in range(width)]
    if sorted(kept) != whole:
        raise ValueError(f"rows of in_proj_weight must go as whole heads of {width}, the same of each third")


def with_heads(layer: nn.MultiheadAttention) -> None:
    """Gives attention whose weights have lost heads the number that is left."""
    layer.__class__ = FewerHeads
    layer.num_heads = layer.in_proj_weight.shape[0] // (3 * layer.head_dim)
    # PyTorch's encoder layers ask for this before they take a short cut, which knows no fewer heads
    layer._qkv_same_embed_dim = False


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of PyTorch's attention, in which True is left out, as a summand."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill(mask, -torch.inf)
    return mask.to(like.dtype)
