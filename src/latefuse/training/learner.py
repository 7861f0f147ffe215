"""A backbone as the Trainer sees it: a batch in, a loss out, and of its weights only those that learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from latefuse.models.backbone import Backbone
from latefuse.tasks import get
from latefuse.training.distributed import TrainingError

Made = TypeVar("Made")


class Landed(NamedTuple):
    """What the Trainer asks of a loaded state: here always nothing missing and nothing left over."""

    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()


class Touch(nn.Module):
    """The trained weights of one module once more, so that ZeRO-3 has them whole while this runs."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                self.register_parameter(name, parameter)

    def forward(self, total: Tensor) -> Tensor:
        """The same scalar, with a gradient of zero for each weight."""
        return total + 0.0 * torch.stack([p.flatten()[:1].sum() for p in self.parameters() if p.numel()]).sum()


class Learner(nn.Module):
    """A backbone with adapter and head as the Trainer sees it: a batch in, the summed loss over what is learned out.

    Its state is what is trained and nothing else, so that checkpoints stay small.
    """

    accepts_loss_kwargs = True  # the Trainer then counts what is learned in a whole step, over all processes

    def __init__(self, backbone: Backbone, kind: str, several: bool = False) -> None:
        """several: batches of one job touch different parts of what is trained."""
        super().__init__()
        self.model = backbone.model
        self.head = backbone.head
        self.backbone = backbone
        self.task = get(kind)
        self.model.train()
        self.trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        owners = [m for m in self.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
        self.touch = nn.ModuleList(map(Touch, owners) if several else [])

    def train(self, mode: bool = True) -> Learner:
        """The Trainer asks for it at every step; only a change goes through all modules."""
        return super().train(mode) if mode is not self.training else self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of what has gradients: the adapter, not every weight of a frozen backbone."""
        for parameter in self.trained:
            parameter.grad = None if set_to_none or parameter.grad is None else parameter.grad.zero_()

    def forward(self, inside: Callable[[], None] | None = None, **batch: Any) -> Tensor:
        """Summed loss in nats, a scalar. inside: what is done in its place, see `whole`."""
        if inside is not None:
            inside()
            return torch.zeros(())
        total, _ = self.task.loss(self.backbone, self.task.Batch(**batch))
        if torch.is_grad_enabled():
            # What a batch does not touch gets a gradient of zero: DeepSpeed's flat groups can't pass it over, so one
            # process must not either; with offload, and under ZeRO-3, they would apply that of an earlier step again.
            for part in self.touch:
                total = part(total)
        return torch.as_tensor(total)

    @torch.no_grad()
    def whole(self, make: Callable[[], Made]) -> Made:
        """What `make` returns, called within a forward pass: there ZeRO-3 gathers weights that are read directly."""
        found: list[Made] = []
        self(lambda: found.append(make()))
        return found[0]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # torch has overloads
        """The trained parameters only."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take in exactly the trained parameters. Raises TrainingError on one too few, too many, or misshapen."""
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        wrong = sorted(set(own) ^ set(state_dict)) or [n for n, p in own.items() if p.shape != state_dict[n].shape]
        if wrong:
            raise TrainingError(f"checkpoint: {len(wrong)} tensor(s) do not fit the adapter: {', '.join(wrong[:3])}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state_dict[name])
        return Landed()
