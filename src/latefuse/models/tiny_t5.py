"""The demo T5: a real, tiny `T5ForConditionalGeneration`, pre-trained in a few minutes on general texts.

It learns to fill in what is left out of sentences (Raffel et al. 2020, arXiv 1910.10683, section 3.1.4), to go on with
them, and to answer small questions about lists; never a row of a dataset.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from latefuse import progress
from latefuse.data.demo import texts
from latefuse.data.demo.texts import LONGEST, SHORT, Texts
from latefuse.models.tiny import descend
from latefuse.models.tiny_tokenizer import SPACE
from latefuse.models.tiny_tokenizer import vocabulary as kitchen
from latefuse.prompts.personal.template import vocabulary as prompts
from latefuse.sections import Section

SPECIAL = ("<pad>", "</s>", "<unk>")
MARKERS = tuple(f"<extra_id_{number}>" for number in range(32))
DIGITS = "0123456789"
NUMBERS = tuple(map(str, range(1_000)))
IGNORED = -100
CORRUPTED, SPAN = 0.15, 3
"""Share of a text's tokens that are left out, and how long each gap is on average: T5's own."""
MIX = {"gaps": 0.15, "rest": 0.05, "question": 0.8}
BESIDE = 6.0
"""By how much the scores of a neighbour are raised at the beginning."""
CHUNK = 4
"""How many times the rows of a step are drawn before like lengths are put together."""


class TinyT5Options(Section):
    """How the demo T5 is pre-trained: fixed steps, so that every machine builds the same one; 0 for random weights."""

    steps: int = 2_400
    seed: int = 0
    lr: float = 2e-3
    batch: int = 64
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    wide: int = 256


def build(options: Mapping[str, Any], out: Path, on_log: Callable[[dict[str, float], int], None] | None = None) -> None:
    """Pre-train the demo T5 and write it to `out` in the Hugging Face layout.

    options: the fields of TinyT5Options. on_log: gets {"loss", "lr"} every 50 steps. Deterministic on one machine.
    """
    settings = TinyT5Options.model_validate(dict(options))
    torch.manual_seed(settings.seed)
    tokenizer = word_tokenizer()
    model = T5ForConditionalGeneration(architecture(tokenizer, settings))
    pretrain(model, tokenizer, settings, on_log or (lambda values, step: None))
    with progress.no_library_bars():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def architecture(tokenizer: PreTrainedTokenizerFast, settings: TinyT5Options) -> T5Config:
    """The shapes: by default d=128, 3 + 3 layers, about 1.5 M parameters."""
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=settings.hidden,
        d_kv=settings.hidden // settings.heads,
        d_ff=settings.wide,
        num_layers=settings.layers,
        num_decoder_layers=settings.layers,
        num_heads=settings.heads,
        feed_forward_proj="relu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the demo's world, one every three digits from the left, byte pieces for everything else.

    It ends texts as T5's does.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = {*kitchen(), *texts.vocabulary(), *prompts()}
    known = {word for word in known if not set(word) & set(DIGITS)} | {*NUMBERS}
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    pieces += [SPACE + word for word in sorted(known)]
    ids = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *MARKERS]))}
    core = Tokenizer(models.WordPiece(ids, unk_token="<unk>", max_input_chars_per_word=100_000))
    core.normalizer = normalizers.Prepend(" ")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[0-9]{1,3}| ?[^\s0-9]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.Sequence([decoders.Replace("##", ""), decoders.Fuse(), decoders.ByteLevel()])
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", ids["</s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(MARKERS),
        model_max_length=1024,
    )


def pretrain(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    settings: TinyT5Options,
    on_log: Callable[[dict[str, float], int], None],
) -> None:
    """Teach the model all kinds of MIX in one, lists short at first. Without dropout, as T5 1.1 was."""
    lessons = Lessons(tokenizer, settings.seed)
    look_around(model)
    model.eval()
    batches = lessons.batches(settings.batch, settings.steps)

    def loss_at(step: int) -> torch.Tensor:
        loss: torch.Tensor = model(**next(batches)).loss
        return loss

    if settings.steps:
        descend(list(model.parameters()), loss_at, settings.steps, settings.lr, "demo T5", on_log)


@torch.no_grad()
def look_around(model: T5ForConditionalGeneration) -> None:
    """Let a head of the encoder begin by looking at the token before, one at that behind, one of the decoder before.

    Whoever copies from a list must know what stands beside what, and learns it late from scores that begin as noise.
    """
    reads, writes = (
        stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight for stack in (model.encoder, model.decoder)
    )
    behind = len(reads) // 2 + 1
    for table, bucket, head in ((reads, 1, 0), (reads, behind, 1), (writes, 1, 0)):
        table[bucket, head] += BESIDE


class Lessons:
    """Texts as tokens: what is read and what is answered, both with the end token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.tokenizer, self.texts = tokenizer, Texts(seed)
        self.rng = random.Random(seed)
        self.pad, self.end = tokenizer.pad_token_id, tokenizer.eos_token_id
        self.markers = tokenizer.convert_tokens_to_ids(list(MARKERS))

    def batches(self, size: int, steps: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """Endless input_ids, attention_mask (size, L) and labels (size, T; -100 for padding), of like lengths each.

        steps: of which the first half shows lists that grow.
        """
        for drawn in count():
            self.texts.longest = min(LONGEST, SHORT + drawn * CHUNK * 2 * LONGEST // max(steps, 1))
            rows = sorted((self.row() for _ in range(CHUNK * size)), key=lambda row: len(row[0]))
            some = [rows[start : start + size] for start in range(0, len(rows), size)]
            self.rng.shuffle(some)
            yield from map(self._batch, some)

    def row(self) -> tuple[list[int], list[int]]:
        """What is read, and what is answered."""
        kind = self.rng.choices(list(MIX), weights=list(MIX.values()))[0]
        if kind == "question":
            asked, answer = self.texts.question()
            return self._ids(asked), self._ids(answer)
        ids = self._ids(" ".join(self.texts.sentences()))[:-1]
        if kind == "gaps":
            return self.gaps(ids)
        cut = self.rng.randrange(1, len(ids))
        return [*ids[:cut], self.end], [*ids[cut:], self.end]

    def gaps(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """A text with gaps, each a marker; then marker by marker what stood there."""
        gaps = max(1, round(len(ids) * CORRUPTED / SPAN))
        left_out = max(gaps, round(len(ids) * CORRUPTED))
        lengths = self._parts(left_out, gaps)
        kept = self._parts(max(gaps, len(ids) - left_out), gaps)
        told: list[int] = []
        answer: list[int] = []
        at = 0
        for marker, before, length in zip(self.markers, kept, lengths, strict=False):
            told += [*ids[at : at + before], marker]
            answer += [marker, *ids[at + before : at + before + length]]
            at += before + length
        return [*told, *ids[at:], self.end], [*answer, self.end]

    def _parts(self, total: int, parts: int) -> list[int]:
        """`parts` numbers of at least 1 that add up to `total`."""
        cuts = sorted(self.rng.sample(range(1, total), parts - 1))
        return [end - start for start, end in pairwise([0, *cuts, total])]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def _batch(self, rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        ids, labels = (_padded([row[part] for row in rows], fill) for part, fill in ((0, self.pad), (1, IGNORED)))
        return {"input_ids": ids, "attention_mask": (ids != self.pad).long(), "labels": labels}


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
