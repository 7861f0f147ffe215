"""What an adapter adds to its backbone, and how it is put on a model and taken off again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from latefuse.errors import UserError
from latefuse.models.adapter_files import base_name


class FusionError(UserError, ValueError):
    """Adapters that can't be read, merged or applied; the message names the folder, the tensor and what to do."""


@dataclass(frozen=True)
class Change:
    """The change of a backbone's weights, in float32, in its smallest exact form.

    low: module name -> (A (r, in), B (out, r)); its weight changes by B @ A, LoRA's scaling is already inside B.
    dense: parameter name -> change of that parameter, of its shape (DoRA, biases, modules trained whole).
    whole: the modules trained whole (PEFT's `modules_to_save`), all their parameters are in `dense`.
    ranks: the LoRA rank of every module that has one, also where DoRA made the change dense.
    """

    name: str
    low: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    dense: dict[str, Tensor] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    ranks: dict[str, int] = field(default_factory=dict)

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters that change, sorted."""
        return sorted({*(f"{module}.weight" for module in self.low), *self.dense})

    def get(self, parameter: str) -> Tensor | None:
        """The dense change of one parameter, float32, or None where this adapter leaves it alone."""
        module = parameter.removesuffix(".weight")
        if parameter in self.dense:
            return self.dense[parameter]
        if parameter != module and module in self.low:
            down, up = self.low[module]
            return up @ down
        return None

    def shape(self, parameter: str) -> tuple[int, ...] | None:
        """The shape of one parameter's change, without computing it; None where there is none."""
        if parameter in self.dense:
            return tuple(self.dense[parameter].shape)
        found = self.low.get(parameter.removesuffix(".weight")) if parameter.endswith(".weight") else None
        return (found[1].shape[0], found[0].shape[1]) if found else None

    def __getitem__(self, parameter: str) -> Tensor:
        found = self.get(parameter)
        if found is None:
            raise KeyError(parameter)
        return found


def base_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The backbone's own parameters by their plain names, whether or not PEFT has wrapped the model.

    Raises FusionError on a quantised model: merging rounds once, in the precision of the weights on disk.
    """
    found: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        plain = base_name(name)
        if plain is None:
            continue
        if not parameter.is_floating_point() or parameter.element_size() < 2 or hasattr(parameter, "quant_state"):
            raise FusionError(f"{plain} is quantised ({parameter.dtype}): merge into the float backbone, then quantise")
        found[plain] = parameter
    return found


@contextlib.contextmanager
def added(model: nn.Module, changes: Mapping[str, Tensor] | Change, weight: float = 1.0) -> Iterator[None]:
    """Inside the context `weight` times the changes are on the model's weights: summed in float32, rounded once.

    The old tensors are kept and put back, so that afterwards every weight is bit-equal to what it was.
    """
    parameters = base_weights(model)
    names = changes.parameters if isinstance(changes, Change) else list(changes)
    missing = [name for name in names if name not in parameters]
    if missing:
        raise FusionError(f"{len(missing)} changed weights are not in this backbone, the first is {missing[0]!r}")
    old: dict[str, Tensor] = {}
    try:
        for name in names:
            parameter, change = parameters[name], changes[name]
            if change.shape != parameter.shape:
                raise FusionError(f"{name}: change {tuple(change.shape)}, weight {tuple(parameter.shape)}")
            old[name] = parameter.data
            # Whoever stores features of a frozen tower sees here that this one is not as it was.
            parameter.changed = True  # type: ignore[attr-defined]  # parameters take attributes
            parameter.data = (parameter.data.float() + weight * change.to(parameter.device)).to(parameter.dtype)
        yield
    finally:
        for name, tensor in old.items():
            parameters[name].data = tensor
            del parameters[name].changed  # type: ignore[attr-defined]  # see above


def inside(parameter: str, modules: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to one of the modules, named in full."""
    return any(parameter.startswith(f"{module}.") for module in modules)
