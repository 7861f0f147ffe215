"""Floating-point operations of a row, as pure functions of shapes. A product and a sum count as two.

A frozen weight is used once forward and once for the gradient of its input, never for a gradient of its own: LoRA
costs 4 operations a weight and token where full training costs 6, and 6 with every layer computed again.
"""

from __future__ import annotations

from latefuse.cluster.shapes import Shapes


def forward(shapes: Shapes, tokens: int, logits: int, media: int = 0) -> float:
    """One row through bridge and language model. logits: at how many of its tokens; media: of them, from the bridge."""
    return _matrices(shapes, tokens, media) + _attention(shapes, tokens) + _head(shapes, logits)


def training(
    shapes: Shapes, tokens: int, learned: int, media: int = 0, adapter: int = 0, checkpointing: bool = False
) -> float:
    """Forward and backward of one row. adapter: numbers that learn; they take part in each token's work."""
    again = int(checkpointing)
    # Attention goes backwards in five products of the two that it goes forwards in (arXiv 2205.14135, appendix B).
    return (
        (2 + again) * _matrices(shapes, tokens, media)
        + (3.5 + again) * _attention(shapes, tokens)
        + 2 * _head(shapes, learned)
        + (6 + 2 * again) * adapter * tokens
    )


def encoding(shapes: Shapes, modality: str, frames: int) -> float:
    """One medium through the tower."""
    if shapes.tower is None or modality == "text":
        return 0.0
    tower, pictures = shapes.tower, frames if modality == "video" else 1
    return pictures * (2.0 * tower.tokens * tower.multiplied + tower.used * 4.0 * tower.tokens**2 * tower.hidden)


def _matrices(shapes: Shapes, tokens: int, media: int) -> float:
    return 2.0 * tokens * shapes.language.multiplied + 2.0 * media * sum(a * b for a, b in shapes.bridge)


def _attention(shapes: Shapes, tokens: int) -> float:
    """Causal: half of two products of (tokens x tokens) with the width of the queries, in each layer."""
    return 2.0 * shapes.language.layers * tokens**2 * shapes.language.query


def _head(shapes: Shapes, logits: int) -> float:
    return 2.0 * logits * shapes.language.vocabulary * shapes.language.hidden
