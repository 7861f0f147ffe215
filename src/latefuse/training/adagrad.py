"""Adagrad for DeepSpeed, which makes torch's own one anew with a single group and loses what the groups said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adagrad import adagrad

EPS = 1e-10


class Adagrad(torch.optim.Optimizer):
    """torch's Adagrad (Duchi et al., JMLR 2011) for dense gradients; its state comes with a weight's first step."""

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of all weights that have a gradient. closure: none is called."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p].update(sum=torch.zeros_like(p), step=torch.zeros(()))
            adagrad(
                params,
                [p.grad for p in params],
                [self.state[p]["sum"] for p in params],
                [self.state[p]["step"] for p in params],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                lr_decay=0.0,
                eps=EPS,
                maximize=False,
            )
