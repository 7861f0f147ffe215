"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751) behind the parts of a frozen language model's blocks.

They act through forward hooks: the model keeps its classes and the names of its weights, and without the hooks it is
the model that it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latefuse.config_personal import Place
from latefuse.models.adapter_files import AdapterError

SPOTS: Mapping[Place, tuple[str, ...]] = {
    "self": ("SelfAttention", "self_attn"),
    "cross": ("EncDecAttention",),
    "ffn": ("DenseReluDense", "mlp"),
}
"""What the parts of a block are called in T5, and in models built like Llama."""
BLOCK = re.compile(r"\.\d+\.")


class Bottleneck(nn.Module):
    """h + W_up GELU(W_down h + b_down) + b_up, one for each of `kinds`; W_up and b_up begin as zero, so as h.

    width: d of h. inner: of the bottleneck.
    """

    def __init__(self, width: int, inner: int, kinds: int = 1) -> None:
        super().__init__()
        bound = width**-0.5
        self.down = nn.Parameter(torch.empty(kinds, inner, width).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.empty(kinds, inner).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(kinds, width, inner))
        self.up_bias = nn.Parameter(torch.zeros(kinds, width))

    def forward(self, h: Tensor, kind: Tensor | None = None) -> Tensor:
        """h: (B, L, d). kind: (B,) int64, which one each row goes through; None where there is one only."""
        x = h.to(self.down.dtype)
        if len(self.down) == 1 or kind is None:
            made = F.linear(F.gelu(F.linear(x, self.down[0], self.down_bias[0])), self.up[0], self.up_bias[0])
        else:
            inner = F.gelu(x @ self.down[kind].mT + self.down_bias[kind][:, None])
            made = inner @ self.up[kind].mT + self.up_bias[kind][:, None]
        return h + made.to(h.dtype)


class Bottlenecks(nn.Module):
    """All bottlenecks of a model, by the number of the module that each stands behind.

    spots: full names of these modules. kind: (B,) which bottleneck the rows of the next forward pass go through, or
    (1,) that of all. It stays until the next one, since gradient checkpointing runs a pass again. on: whether they act.
    """

    def __init__(self, spots: Sequence[str], width: int, reduction: int, kinds: int = 1) -> None:
        super().__init__()
        self.spots, self.kinds = tuple(spots), kinds
        inner = max(1, width // reduction)
        self.each: Any = nn.ModuleList(Bottleneck(width, inner, kinds) for _ in spots)
        self.kind: Tensor | None = None
        self.on = True
        self._handles: list[Any] = []

    def attach(self, model: nn.Module) -> None:
        """Let them act behind their modules of this model, until `detach`."""
        self.detach()
        for number, spot in enumerate(self.spots):
            self._handles.append(model.get_submodule(spot).register_forward_hook(self._hook(number)))

    def detach(self) -> None:
        """The model is again as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, they do not act."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    def _hook(self, number: int) -> Any:
        def act(module: nn.Module, inputs: Any, out: Any) -> Any:
            if not self.on:
                return out
            h = out[0] if isinstance(out, tuple) else out
            changed = self.each[number](h, self._chosen(len(h)))
            return (changed, *out[1:]) if isinstance(out, tuple) else changed

        return act

    def _chosen(self, rows: int) -> Tensor | None:
        """The kind of each row that goes through. Raises ValueError where it is not told."""
        if self.kinds == 1:
            return None
        if self.kind is not None and len(self.kind) == 1:
            return self.kind.expand(rows)
        if self.kind is None or len(self.kind) != rows:
            told = "none is" if self.kind is None else f"{len(self.kind)} are"
            raise ValueError(f"every family has bottlenecks of its own: {rows} rows, but the family of {told} told")
        return self.kind


def spots(model: nn.Module, language: Sequence[str], places: Sequence[Place]) -> list[str]:
    """Full names of the modules that bottlenecks stand behind, in the model's order.

    language: prefixes of what counts. Raises AdapterError for a place that the model does not have.
    """
    under = tuple(f"{prefix}." for prefix in language)
    names = [name for name, _ in model.named_modules() if name.startswith(under) and BLOCK.search(name)]
    found: set[str] = set()
    for place in places:
        here = {name for name in names if name.rpartition(".")[2] in SPOTS[place]}
        if not here:
            told = " (a causal language model has no cross-attention)" if place == "cross" else ""
            raise AdapterError(f"personalise.places: nothing in this backbone is of the place {place!r}{told}")
        found |= here
    return [name for name in names if name in found]


def norm_scales(model: nn.Module, language: Sequence[str]) -> list[str]:
    """Names of the parameters of all norms of the language model, in the model's order."""
    under = tuple(f"{prefix}." for prefix in language)
    return [
        f"{name}.{own}"
        for name, module in model.named_modules()
        if name.startswith(under) and type(module).__name__.lower().endswith("norm")
        for own, _ in module.named_parameters(recurse=False)
    ]
