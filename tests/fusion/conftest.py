"""A two-layer network and real PEFT adapters on it, small enough that every merge can be checked by brute force."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two names of which one ends with the other (`up` and `block.up`), as real models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.block = nn.ModuleDict({"up": nn.Linear(10, 12), "down": nn.Linear(12, 8, bias=False)})
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.up(x))
        x = torch.tanh(self.block["down"](torch.tanh(self.block["up"](x))))
        return self.head(x)


@pytest.fixture
def net() -> Net:
    """The frozen base, the same in every test."""
    torch.manual_seed(7)
    return Net()


@pytest.fixture
def make_adapter(net: Net, tmp_path: Path) -> Callable[..., tuple[Path, nn.Module]]:
    """`make(name, seed, **LoraConfig)` -> the saved folder and PEFT's own merge of it into a copy of the base."""

    def make(name: str, seed: int = 0, **options: Any) -> tuple[Path, nn.Module]:
        options = {"r": 3, "lora_alpha": 5, "target_modules": ["block.up", "block.down"], **options}
        torch.manual_seed(seed)
        model = peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(**options))
        for parameter_name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn_like(parameter)
                parameter.data = parameter.data + 0.3 * noise
                assert "base_layer.weight" not in parameter_name
        model.eval()
        model.save_pretrained(tmp_path / name)
        return tmp_path / name, model.merge_and_unload()

    return make
