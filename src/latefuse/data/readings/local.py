"""Readings by a Hugging Face model on this machine: a language model for reviews, one that sees for pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from latefuse.config_data import MediaLimits
from latefuse.config_rank import Reader
from latefuse.data.media import open_image
from latefuse.data.readings.asked import Asked
from latefuse.data.readings.request import Request, digest_of
from latefuse.models import folder as folders
from latefuse.models.folder import FROM_FOLDER, must_be_complete
from latefuse.models.hub import fetch
from latefuse.models.named import is_folder, located
from latefuse.progress import no_library_bars

TOKENS_A_WORD = 3
SENTENCES = re.compile(r"^.*[.!?…。！？]", re.DOTALL)
OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class Local:
    """Greedy answers of a model folder or a hub repository, one prompt at a time, so that the same prompt has the same
    answer whatever stands beside it. For speed put the model behind an endpoint.

    At most 3 tokens a wanted word; an answer that is cut off there ends with its last whole sentence, if it has one.
    Reviews of a prompt that is longer than the model's positions are left out, the oldest first. Raises BackboneError
    for a folder that can't be used.
    """

    def __init__(self, reader: Reader, words: int, where: str, limits: MediaLimits, sees: bool) -> None:
        name = str(reader.model)
        if is_folder(name) or name.startswith(("pip:", "$")):
            self._folder: Path = located(name, f"{where}.model")
            self.name = f"model {self._folder.name}@{folders.digest(self._folder)[:12]}"
        else:
            self._folder, commit = fetch(name, reader.revision)
            self.name = f"model {name}@{commit[:12]}"
        folders.check(self._folder)
        self.calls, self._sees, self._limits = 0, sees, limits
        self._config = AutoConfig.from_pretrained(self._folder, **OFFLINE)
        self._reader = (AutoProcessor if sees else AutoTokenizer).from_pretrained(self._folder, **OFFLINE)
        self._tokenizer = self._reader.tokenizer if sees else self._reader
        self._most = max(16, TOKENS_A_WORD * words)
        self._asked = Asked(words, self._without_control, self._room)
        self.version, self.method = self._asked.version, self._asked.method

    def reads(self, request: Request) -> int:
        """How many of the newest reviews fit."""
        return self._asked.reads(request)

    def key(self, request: Request) -> str:
        """The prompt as the model reads it, with the picture by content."""
        return digest_of(f"{request.id if request.picture else ''}\n{self._most}\n{self._prompt(request)}")

    def make(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place, text) of every request, in order."""
        for place, request in enumerate(requests):
            self.calls += 1
            yield place, self._answer(request)

    def notes(self) -> list[str]:
        """What did not fit."""
        return self._asked.notes()

    def spent(self) -> str:
        """How many answers it gave."""
        return f"{self.calls:,} calls"

    @torch.no_grad()
    def _answer(self, request: Request) -> str:
        prompt = self._prompt(request)
        if request.picture is None:
            given = self._reader(prompt, return_tensors="pt", add_special_tokens=not self._reader.chat_template)
        else:
            given = self._reader(images=[open_image(request.picture, self._limits)], text=prompt, return_tensors="pt")
        given = given.to(self._model.device)
        given.pop("token_type_ids", None)
        out = self._model.generate(
            **given, max_new_tokens=self._most, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
            pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
        )  # fmt: skip
        new = out[0, given["input_ids"].shape[1] :]
        text = " ".join(self._tokenizer.decode(new, skip_special_tokens=True).split())
        whole = SENTENCES.match(text)
        return whole[0] if len(new) == self._most and whole else text

    def _prompt(self, request: Request) -> str:
        return self._in_chat(self._asked.text(request), request.picture is not None)

    def _in_chat(self, text: str, picture: bool) -> str:
        """The prompt in the model's chat template, where it has one."""
        if not self._reader.chat_template:
            return f"{self._reader.image_token}\n{text}\n" if picture else f"{text}\n"
        content = [{"type": "image"}, {"type": "text", "text": text}] if picture else text
        turns = [{"role": "user", "content": content}]
        return str(self._reader.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _room(self, prompt: str) -> bool:
        positions = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        if positions is None:
            return True
        return len(self._tokenizer(self._in_chat(prompt, False))["input_ids"]) + self._most <= positions

    def _without_control(self, text: str) -> str:
        """A review in which no control token of this model's tokenizer stands."""
        for token in self._control:
            text = text.replace(token, " ")
        return text

    @cached_property
    def _control(self) -> list[str]:
        added = {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        return sorted(added | set(self._tokenizer.all_special_tokens), key=len, reverse=True)

    @cached_property
    def _model(self) -> Any:
        kind = AutoModelForImageTextToText if self._sees else AutoModelForCausalLM
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with no_library_bars():
            model, told = kind.from_pretrained(self._folder, dtype="auto", **FROM_FOLDER)
        must_be_complete(self._folder, told)
        return model.eval().to(device)
