"""The demo base: a real VideoLlava in the Hugging Face layout, deterministic, learning from captions only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration

from latefuse.data.demo import checks
from latefuse.data.demo.checks import Checks
from latefuse.data.demo.lessons import PIXELS, Lessons
from latefuse.models import folder, tiny
from latefuse.models.backbone import load
from latefuse.models.tiny_lessons import Encoder
from latefuse.models.tiny_tokenizer import FRAME_TOKENS, kitchen_tokenizer

QUICK = {"steps": 3, "tower_steps": 2, "pictures": 4, "clips": 2, "looks": 8}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base")
    tiny.build(QUICK, out)
    return out


def test_it_is_the_real_class_in_safetensors(base: Path) -> None:
    model = VideoLlavaForConditionalGeneration.from_pretrained(base)
    assert sum(p.numel() for p in model.parameters()) < 2_500_000
    assert not list(base.glob("*.bin"))
    image, video = model.model.image_tower.state_dict(), model.model.video_tower.state_dict()
    assert all(torch.equal(image[key], video[key]) for key in image)
    assert model.model.image_tower is not model.model.video_tower


def test_same_options_same_bytes(base: Path, tmp_path: Path) -> None:
    tiny.build(QUICK, tmp_path)
    assert folder.digest(tmp_path) == folder.digest(base)


def test_any_text_survives_the_tokenizer(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    for text in ("which dish is in this picture ?", "Crème brûlée 50% ## x\n\nзавтрак 🍜", "1 1/2 cups lentil"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).strip() == text
    assert len(tokenizer("1 1/2 cups lentil", add_special_tokens=False)["input_ids"]) == 4


def test_lessons_are_encoded_as_the_tasks_encode(base: Path, tmp_path: Path) -> None:
    lessons = Lessons(seed=0, frames=8, scenes=4)
    encoder = Encoder(kitchen_tokenizer(), 8)
    batch = encoder(lessons.batch("drops", 2))
    folder.seal(base, name="demo", frames=8, frame_marks=list(FRAME_TOKENS[:8]))
    backbone = load(base, frames=8)
    row = batch["input_ids"][0].tolist()
    expansion = backbone.placeholder_ids("video")
    starts = [k for k in range(len(row)) if row[k : k + len(expansion)] == expansion]
    assert len(starts) == 1
    assert batch["shown"].shape == (16,)
    assert lessons.drawings.shape[1:] == (PIXELS, PIXELS, 3)
    answered = batch["labels"][0][batch["labels"][0] != -100]
    assert answered[-1] == backbone.tokenizer.eos_token_id
    assert backbone.tokenizer.decode(answered, skip_special_tokens=True).strip().startswith("1. ")


def test_the_transform_of_the_lessons_is_the_base_s_own(base: Path) -> None:
    from latefuse.data.demo.lessons import shrink
    from latefuse.data.demo.pictures import technique_frame

    folder.seal(base, name="demo", frames=8, frame_marks=list(FRAME_TOKENS[:8]))
    image = technique_frame("oven", 0.0, 2)
    mine = torch.from_numpy(shrink(image).copy()).permute(2, 0, 1) / 127.5 - 1
    theirs = load(base, frames=8).pixels([image], "image")[0]
    torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=0)


def test_the_captions_loss_is_the_models_own(base: Path) -> None:
    model = VideoLlavaForConditionalGeneration.from_pretrained(base)
    lessons, encoder = Lessons(3, 8, scenes=4), Encoder(kitchen_tokenizer(), 8)
    batch = encoder(lessons.batch("drops", 3))
    pixels = torch.from_numpy(lessons.drawings[batch["shown"].numpy()]).permute(0, 3, 1, 2) / 127.5 - 1
    theirs = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        pixel_values_videos=pixels.reshape(3, 8, 3, PIXELS, PIXELS),
        labels=batch["labels"],
    ).loss
    mine = tiny.caption_loss(model, batch, tiny.features(model.model.image_tower, lessons.drawings))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_captions_are_learned() -> None:
    settings = tiny.TinyOptions(steps=30, tower_steps=30, pictures=8, clips=2, looks=16, seed=1)
    logged: list[float] = []
    tokenizer = kitchen_tokenizer()
    torch.manual_seed(1)
    model = VideoLlavaForConditionalGeneration(tiny.architecture(tokenizer, settings))
    lessons, encoder = Lessons(5, 8, scenes=16), Encoder(tokenizer, 8)
    batch = encoder(lessons.batch("picture", 8))
    tower = model.model.image_tower
    before = tiny.caption_loss(model, batch, tiny.features(tower, lessons.drawings)).item()
    tiny.pretrain(model, tokenizer, settings, lambda values, step: logged.append(step))
    after = tiny.caption_loss(model, batch, tiny.features(tower, lessons.drawings)).item()
    assert after < 0.7 * before


def test_every_answer_of_a_check_is_learned() -> None:
    lessons, tokenizer = Lessons(seed=1, frames=8, scenes=4), kitchen_tokenizer(checks.WORDS)
    encoder = Encoder(tokenizer, 8)
    drawn = Checks(lessons).then(7)
    assert sum(map(len, drawn)) == 7
    batch = encoder.checks(drawn)
    assert batch["shown"].tolist() == [check.shown for several in drawn for check in several]
    for several, labels in zip(drawn, batch["labels"], strict=True):
        said = tokenizer.convert_ids_to_tokens(labels[labels != -100].tolist())
        assert " ".join(word.strip("Ġ") for word in said if word != "</s>") == " ".join(
            word for check in several for _, word in check.asked
        )


def test_a_base_with_checks_is_another_base(base: Path, tmp_path: Path) -> None:
    tiny.build({**QUICK, "checks": 5, "checked": 2}, tmp_path)
    assert folder.digest(tmp_path) != folder.digest(base)
    plain, judging = (AutoTokenizer.from_pretrained(path) for path in (base, tmp_path))
    assert judging.tokenize("Relevant") == ["ĠRelevant"] != plain.tokenize("Relevant")
    assert judging.tokenize("Not Relevant")[0] == "ĠNot"
