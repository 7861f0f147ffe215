"""Answers written by several adapters together: each sees its own prompt, their next-token distributions are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latefuse.fusion.scores import mix
from latefuse.models.adapters import active
from latefuse.models.backbone import Backbone
from latefuse.models.streams import Decoder, decode_mixed
from latefuse.prompts import Splicer
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example
from latefuse.training.features import Features


@dataclass(frozen=True)
class Stream:
    """One member of a mix. rows: its prompt for every mixed row, None where its modality is missing.

    adapter: the name(s) under which its adapter is attached to the backbone, None for the bare backbone.
    """

    backbone: Backbone
    rows: Sequence[Example | None]
    adapter: str | Sequence[str] | None
    features: Features


@torch.no_grad()
def generate_mixed(
    streams: Sequence[Stream],
    weights: Tensor,
    max_new_tokens: int = 96,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> list[str]:
    """Greedy answers, one a row: every stream sees its own prompt, the mixed distribution picks each token.

    weights: (streams,), see `fusion.scores.mix`. Raises ValueError when streams disagree in length or a row has no
    prompt in any of them.
    """
    sizes = {len(stream.rows) for stream in streams}
    if len(sizes) != 1:
        raise ValueError(f"streams of {sorted(sizes)} rows can't be mixed: one entry a row in each, None where absent")
    total = sizes.pop()
    splicer = Splicer.of(streams[0].backbone)
    texts: list[str] = []
    with instruct.progress_bar(total, "generate", progress) as bar:
        for start in range(0, total, batch_size):
            stop = min(start + batch_size, total)
            here = [k for k, stream in enumerate(streams) if any(row is not None for row in stream.rows[start:stop])]
            members = [_decoder(streams[k], start, stop) for k in here]
            # A stream that is missing throughout leaves its weight to the others, as `mix` does row by row.
            shares = weights[here] * (weights.sum() / weights[here].sum())
            written = decode_mixed(members, stop - start, shares, mix, splicer.end_id, max_new_tokens)
            texts += [instruct.decode(streams[0].backbone, ids, splicer.end_id) for ids in written]
            bar.update(stop - start)
    return texts


def _decoder(stream: Stream, start: int, stop: int) -> Decoder:
    present = [(place, row) for place, row in enumerate(stream.rows[start:stop]) if row is not None]
    prompts = instruct.prompt_batch(stream.backbone, [row for _, row in present], stream.features)
    return Decoder(
        stream.backbone, prompts, [place for place, _ in present], lambda: active(stream.backbone, stream.adapter)
    )
