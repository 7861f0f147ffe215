"""What autograd keeps of one micro-batch for the backward pass, counted operation by operation.

Adapters are trained on a frozen base, so a layer keeps its inputs for LoRA and what its own maths needs, never the
inputs of frozen weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from latefuse.cluster.shapes import Language, Linear, Shapes, Tower, sees, trained
from latefuse.config import AdapterConfig

FULL, HALF = 4, 2
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Load:
    """What one process holds at a time: rows of `tokens` each, of which `learned` get logits.

    media: tokens of a row that come through the bridge; encoded: tokens inside the tower, where that learns.
    """

    rows: int
    tokens: int
    learned: int
    media: int = 0
    encoded: int = 0


@dataclass(frozen=True)
class Saved:
    """Bytes kept for the backward pass, by where."""

    layers: int
    tower: int
    bridge: int
    head: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.tower + self.bridge + self.head


def saved(
    shapes: Shapes,
    adapter: AdapterConfig,
    modalities: tuple[str, ...],
    load: Load,
    precision: Precision = "float32",
    deepspeed: bool = False,
    gpu: bool = True,
) -> Saved:
    """What autograd keeps of one micro-batch, without weights; from the order of operations of the library's classes.

    In mixed precision without DeepSpeed every LoRA casts its input for itself. A batch with padding brings a mask,
    which each layer keeps in the numbers of its activations.
    """
    e = size(precision)
    casts = e == HALF and not deepspeed
    keep = _Keep(e, casts, adapter, 1 if gpu else FULL)
    tokens, language = load.rows * load.tokens, shapes.language
    on_language = "language" in adapter.on
    from_below = (
        sees(modalities) and load.media > 0 and bool({"bridge", "tower"} & set(adapter.on) or adapter.bridge_full)
    )
    if not (on_language or from_below):
        return Saved(0, 0, 0, 0)
    layer = keep.decoder(language, tokens, load, on_language)
    layers = language.layers * layer - (0 if from_below else keep.first(language, tokens))
    # Angles of the rotation, one final norm, the logits' log-softmax with its targets.
    ends = 2 * tokens * language.head_dim * e + tokens * (language.hidden + 1) * FULL
    logits = load.rows * load.learned * (language.vocabulary * FULL + 8)
    bridge = keep.bridge(shapes, load) if from_below else 0
    towers = keep.tower(shapes.tower, load) if shapes.tower and "tower" in adapter.on and load.encoded else 0
    learns = trained(shapes, adapter, modalities)
    copies = e * (learns.numbers - learns.whole) if casts else 0
    return Saved(layers + copies, towers, bridge, ends + logits)


@dataclass(frozen=True)
class _Keep:
    """Sizes of what operations keep. e: bytes of an activation; casts: whether LoRA keeps an input of its own; mask:
    bytes that dropout keeps for a number."""

    e: int
    casts: bool
    adapter: AdapterConfig
    mask: int

    def lora(self, groups: tuple[tuple[Linear, ...], ...], tokens: int) -> int:
        """Linears that read the same thing keep it once, unless each casts it or drops out of it for itself."""
        alone = self.casts or self.adapter.dropout > 0
        wide = sum(sum(a for a, _ in group) if alone else group[0][0] for group in groups)
        masks = self.mask * sum(a for group in groups for a, _ in group) if self.adapter.dropout else 0
        count = sum(len(group) for group in groups)
        return tokens * ((wide + count * self.adapter.r) * self.e + masks)

    def norm(self, width: int, tokens: int) -> int:
        """An RMS norm keeps its input in float32 and one factor a token."""
        return tokens * (width + 1) * FULL

    def first(self, language: Language, tokens: int) -> int:
        """What the first layer does not keep where nothing below it learns: its first norm's input."""
        return self.norm(language.hidden, tokens)

    def decoder(self, language: Language, tokens: int, load: Load, learns: bool) -> int:
        """One layer of the language model."""
        q, k, v, o, gate, up, down = language.linears
        wide = language.query if load.rows > 1 else language.key
        attention = (2 * language.query + 2 * wide) * self.e + language.heads * FULL
        inside = 3 * language.intermediate * self.e  # gate, its activation, up
        mask = load.rows * load.tokens**2 * self.e if load.rows > 1 else 0
        own = tokens * (attention + inside) + 2 * self.norm(language.hidden, tokens) + mask
        if not learns:
            return own
        shared = tokens * language.query * self.e  # attention's output, which o reads as well
        return own + self.lora(((q, k, v), (o,), (gate, up), (down,)), tokens) - (0 if self._alone else shared)

    @property
    def _alone(self) -> bool:
        return self.casts or self.adapter.dropout > 0

    def bridge(self, shapes: Shapes, load: Load) -> int:
        """Two linears with an activation between, and where the vectors land among the words."""
        tokens, (first, second) = load.rows * load.media, shapes.bridge
        between = tokens * second[0] * self.e
        whole = self.adapter.bridge_full
        read = tokens * (first[0] + second[0]) * self.e if whole else self.lora(((first,), (second,)), tokens)
        on = whole or "bridge" in self.adapter.on
        return between + (read if on else 0) + load.rows * load.tokens

    def tower(self, tower: Tower, load: Load) -> int:
        """A vision transformer with LoRA on the linears of the layers in use; the others run all the same."""
        tokens = load.rows * load.encoded
        q, k, v, out, fc1, fc2 = tower.linears
        attention = 4 * tower.hidden * self.e + tower.heads * FULL
        inside = (2 if tower.quick else 1) * tower.intermediate * self.e
        norms = 2 * (tower.hidden * (FULL if self.casts else self.e) + 2 * FULL)
        shared = 0 if self._alone else tower.hidden * self.e
        layer = tokens * (attention + inside + norms)
        lora = self.lora(((q, k, v), (out,), (fc1,), (fc2,)), tokens) - tokens * shared
        return tower.layers * layer + tower.used * lora


def size(precision: Precision) -> int:
    """Bytes of a number."""
    return FULL if precision == "float32" else HALF
