from __future__ import annotations

import torch

from latefuse.training.adagrad import Adagrad


def test_it_is_torch_s_adagrad_group_by_group() -> None:
    torch.manual_seed(0)
    first = [
        torch.nn.Parameter(torch.randn(5, 3)),
        torch.nn.Parameter(torch.randn(3)),
        torch.nn.Parameter(torch.ones(2)),
    ]
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    own, peer = (
        made([{"params": [a], "weight_decay": 0.1}, {"params": [b, c], "weight_decay": 0.0, "lr": 0.02}], lr=0.05)
        for made, (a, b, c) in ((Adagrad, first), (torch.optim.Adagrad, second))
    )
    for step in range(4):
        for a, b in zip(first[: 3 if step else 2], second, strict=False):  # the last one has no gradient at first
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        own.step()
        peer.step()
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
