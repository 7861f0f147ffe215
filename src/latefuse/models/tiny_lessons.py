"""Lessons of the demo base as tensors, in the very prompt format that the tasks use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import PreTrainedTokenizerFast

from latefuse.data.demo.checks import Check
from latefuse.data.demo.lessons import PIXELS, Lesson
from latefuse.models.tiny_tokenizer import FRAME_TOKENS
from latefuse.prompts.splice import Splicer
from latefuse.prompts.template import template_for

PATCH = 24


def tokens_per_frame() -> int:
    """Patches of a frame plus CLS."""
    return (PIXELS // PATCH) ** 2 + 1


class Encoder:
    """Makes the tensors; words are tokenised once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, frames: int) -> None:
        self.pad = tokenizer.pad_token_id
        image, video, *marks = tokenizer.convert_tokens_to_ids(["<image>", "<video>", *FRAME_TOKENS[:frames]])
        self.marks = marks
        clip = [token for mark in marks for token in (mark, *[video] * tokens_per_frame())]
        self.splicer = Splicer(
            tokenizer,
            template_for("video_llava", tokenizer),
            {"image": [image] * tokens_per_frame(), "video": clip}.__getitem__,
        )
        self.question = cache(self._question)
        self.words = cache(self._words)

    def __call__(self, lessons: Sequence[Lesson]) -> dict[str, torch.Tensor]:
        """Right-padded input_ids, attention_mask, labels (B, L; -100 outside answers), and drawings' numbers (n,)."""
        rows = [(self.question(lesson.modality, lesson.question), self.answer(lesson.answer)) for lesson in lessons]
        ids = [prompt + answer for prompt, answer in rows]
        labels = [[-100] * len(prompt) + answer for prompt, answer in rows]
        return self._batch(ids, labels, [number for lesson in lessons for number in lesson.shown])

    def checks(self, conversations: Sequence[Sequence[Check]]) -> dict[str, torch.Tensor]:
        """The same of questions about one drawing after the other, every answer learned."""
        rows = []
        for several in conversations:
            turns = [
                {"role": role, "text": text}
                for check in several
                for pair in _asked(check)
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
            encoded = self.splicer.encode(turns, [{"modality": "image", "path": "lesson"}] * len(several))
            assert encoded is not None
            rows.append(encoded)
        shown = [check.shown for several in conversations for check in several]
        return self._batch([row.input_ids for row in rows], [row.labels for row in rows], shown)

    def _batch(self, ids: list[list[int]], labels: list[list[int]], shown: list[int]) -> dict[str, torch.Tensor]:
        longest = max(map(len, ids))
        return {
            "input_ids": self._padded(ids, self.pad, longest),
            "attention_mask": self._padded([[1] * len(row) for row in ids], 0, longest),
            "labels": self._padded(labels, -100, longest),
            "shown": torch.tensor(shown, dtype=torch.long),
        }

    def answer(self, parts: Sequence[str]) -> list[int]:
        """One part is told as it is; a part per frame follows that frame's mark. The end token closes."""
        if len(parts) == 1:
            return [*self.words(parts[0]), self.splicer.end_id]
        marked = zip(self.marks, parts, strict=True)
        return [*(token for mark, part in marked for token in (mark, *self.words(part))), self.splicer.end_id]

    def _question(self, modality: str, question: str) -> list[int]:
        media = [] if modality == "text" else [{"modality": modality, "path": "lesson"}]
        opening = f"<{modality}> " if media else ""
        turns = [{"role": "user", "text": opening + question}, {"role": "assistant", "text": "x"}]
        encoded = self.splicer.encode(turns, media)
        assert encoded is not None
        return encoded.input_ids[: encoded.prompt]

    def _words(self, text: str) -> list[int]:
        return self.splicer.answer_ids(text, end=False)

    @staticmethod
    def _padded(rows: list[list[int]], value: int, length: int) -> torch.Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def _asked(check: Check) -> list[tuple[str, str]]:
    """Questions and answers, the drawing at the beginning of the first."""
    (first, answer), *rest = check.asked
    return [(f"{check.before} <image> {first}".strip(), answer), *rest]
