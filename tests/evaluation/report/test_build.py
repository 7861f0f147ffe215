"""The page over made-up results: complete, self-contained, safe against what models and data say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pages import HOSTILE, must_keep_as_text, must_stand_alone
from PIL import Image

from latefuse.data import leaks
from latefuse.data.splits import TEST, TRAIN
from latefuse.evaluation import arms
from latefuse.evaluation.cost import costs
from latefuse.evaluation.intervals import Bootstrap, Estimate
from latefuse.evaluation.report import Report, build, charts, gallery, pictures
from latefuse.evaluation.scores import NO_SEED, ORACLE, Scores
from latefuse.evaluation.summary import Summary, summarise

RECIPE = {
    "ingredients": [{"amount": 2, "unit": "cups", "name": "rice"}, {"amount": 1, "unit": "tbsp", "name": "oil"}],
    "steps": ["add rice", "bake"],
}
# five pictures, the first four of them in train and in test, named by what no page may take at its word
LEAK = leaks.shared(
    np.array([0, 0, 1, 1, 2, 2, 3, 3, 4]),
    np.array([0, 1, 0, 1, 0, 1, 0, 1, 0]),
    np.array([TRAIN, TEST]),
    lambda picture: f"{picture}{HOSTILE}",
    lambda unit: f"item-{unit}",
    "media",
)
CLEAN = leaks.Finding(True, 5760, 0, "0 texts stand in train and in test", 7, ("not to be shown",))


def _line(arm: str, task: str, answer: str, rank: int | None, row: str) -> dict[str, object]:
    return {
        "arm": arm, "seed": 0, "condition": "full", "task": task, "topic": task, "row": row, "item": row,
        "modality": "image", "answer": answer, "reference": "ref", "rank": rank, "top": [],
    }  # fmt: skip


@pytest.fixture
def cards(made_up: Summary) -> list[gallery.Card]:
    """One card of each kind, with what no page may take at its word."""
    said = [
        _line("zero-shot", "dish", HOSTILE, 7, "d"),
        _line("only-dish", "dish", "mint rice", 0, "d"),
        _line("zero-shot", "recipe", HOSTILE, None, "r"),
        _line("only-recipe", "recipe", "ingredients : 2 cups rice ; 3 tbsp oil ; 1 g gold steps : bake", None, "r"),
        _line("mixed", "recipe", "ingredients : 2 cups rice steps : bake", None, "r"),
        _line("only-answers", "answers", "milk", None, "a"),
        _line("mixed", "answers", "", None, "a"),
    ]
    rows = {
        "d": {"question": "name?", "media": [("image", "p"), ("video", "")], "truth": {"name": "mint rice"}},
        "r": {"question": HOSTILE, "media": [], "truth": {"recipe": RECIPE}},
        "a": {"question": "which?", "media": [], "truth": {"answer": "Milk."}},
    }
    show = {"p": "data:image/jpeg;base64,AAAA"}.get
    return gallery.cards(pl.DataFrame(said), made_up.arms, rows, 12, lambda modality, path: show(path))


def _page(made_up: Summary, cards: list[gallery.Card]) -> str:
    result = {
        "name": "mixed",
        "seed": 0,
        "wall_s": 61.0,
        "train_s": 50.0,
        "trainable": 123_456,
        "trainable_share": 0.08,
        "peak_rss_gib": 1.25,
    }
    adapter = result | {"name": "dish", "wall_s": 600.0, "trainable": 100, "peak_rss_gib": 1.0}
    merges = {
        "svd": {
            "weights": {"dish": 0.6},
            "worst_error": 3e-7,
            "retained_energy": 0.931,
            "chosen_by": "NLL",
            "dense": True,
        }
    }
    late = {"fused": {"weights": {"image": 1.0, "text": 0.5}, "nll_before": 2.0, "nll_after": 1.0, "rows": 9}}
    manifest = {
        "source": HOSTILE, "fingerprint": "f" * 64, "rows": {"items": 640}, "quarantine": {"truncated": 3},
        "leaks": {"media": LEAK.as_dict(), "text": CLEAN.as_dict()},
        "splits": {"conversations": {"item": {"train": 5, "test": 2}}},
    }  # fmt: skip
    return build(
        Report(
            title="t", summary=made_up, cards=cards, manifest=manifest, costs=costs([result, adapter]),
            fused=[{"seed": 0, "tasks": ["dish"], "merges": merges, "late": late, "wall_s": 60.0}],
            repeat={"recipe": HOSTILE},
        )
    )  # fmt: skip


def test_the_page_is_well_formed_and_asks_for_nothing(made_up: Summary, cards: list[gallery.Card]) -> None:
    must_stand_alone(_page(made_up, cards))


def test_what_models_and_data_say_stays_text(made_up: Summary, cards: list[gallery.Card]) -> None:
    page = _page(made_up, cards)
    must_keep_as_text(page, 4)


def test_every_part_is_told(made_up: Summary, cards: list[gallery.Card]) -> None:
    page = _page(made_up, cards)
    for text in (
        "What was found",
        "truncated",
        "93.1%",
        "3.0e-07",
        "123 k",
        "1.25 GiB",
        "oracle",
        "media absent",
        "Off modality",
    ):
        assert text in page
    cell = made_up.task("recipe").cells["ingredient_f1"]["separate+route"].mean
    assert f"{100 * cell.value:.1f}%" in page
    assert f"{100 * cell.low:.1f} – {100 * cell.high:.1f}" in page


def test_ingredients_are_told_apart(cards: list[gallery.Card]) -> None:
    card = next(card for card in cards if card.task == "recipe")
    by_label = {said.label: said for said in card.answers}
    assert {c.text: c.state for c in by_label["separate + route"].chips} == {
        "2 cup rice": "right", "3 tbsp oil": "amount", "1 g gold": "wrong",
    }  # fmt: skip
    assert {c.text: c.state for c in by_label["mixed"].chips} == {"2 cup rice": "right", "1 tbsp oil": "missed"}
    assert by_label["zero-shot"].text.startswith("<script>")


def test_right_and_wrong_answers(cards: list[gallery.Card]) -> None:
    found = {(card.task, said.label): said for card in cards for said in card.answers}
    assert found["dish", "separate + route"].right is True
    assert found["dish", "zero-shot"].note == "truth not among the first 5"
    assert found["answers", "separate + route"].right is True
    assert found["answers", "mixed"].right is False


def test_a_failed_leak_check_is_told_as_such(made_up: Summary, cards: list[gallery.Card]) -> None:
    rows = re.findall(r"<tr><th[^>]*>(media|text)</th>(.*?)</tr>", _page(made_up, cards))
    failed, passed = (dict(rows)[check] for check in ("media", "text"))
    assert "FAILED" in failed
    assert 'class="worse"' in failed
    assert "passed" not in failed
    assert "<td>4 of 5</td>" in failed
    assert "4 media stand in train and in test" in failed
    told = re.findall(r"<li>(.*?)</li>", failed)
    assert [one[0] for one in told] == ["0", "1", "2"]
    assert told[0].endswith("item-0 (train) and item-1 (test)")
    assert "passed" in passed
    assert "FAILED" not in passed
    assert "<td>0 of 5760</td>" in passed
    assert "7 more between validation and another split" in passed
    assert "not to be shown" not in passed


def test_the_share_of_the_oracle_is_that_on_the_arms_own_rows() -> None:
    known, scores = arms.arms(["t"], ["t", "mixed"], [], late=False, same_input=False), Scores()

    def add(arm: str, values: dict[str, float]) -> None:
        for row, value in values.items():
            key = (arm, NO_SEED, "full", "t", "t", row, row, "image", "")
            scores.add(key, {"dish_top1": (value, int(value == value))})

    add(ORACLE, {"a": 0.5, "b": 0.5, "c": 0.1, "d": 0.1})
    add("zero-shot", dict.fromkeys("abcd", float("nan")))
    add("mixed", dict.fromkeys("abcd", 0.15))
    add("separate+route", {"a": 0.5, "b": 0.2})
    page = build(Report(title="t", summary=summarise(scores.table(), known, Bootstrap())))
    shares = dict(
        zip(("zero", "mixed", "route"), re.findall(r'class="of" role="cell".*?>(.*?)</span>', page), strict=True)
    )
    assert shares == {"zero": "", "mixed": "50%", "route": "70%"}  # 0.15 of 0.3; 0.35 of 0.5, not of 0.3
    assert "nan" not in page
    assert "n = 2<" in page


def test_costs_stand_per_arm(made_up: Summary, cards: list[gallery.Card]) -> None:
    cost = _page(made_up, cards).split('id="cost"')[1].split("</section>")[0]
    rows = re.findall(r'<tr><th scope="row">([^<]*).*?</th>(.*?)</tr>', cost)
    cells = {name: re.findall(r"<td>(.*?)</td>", row) for name, row in rows}
    assert cells["zero-shot"] == ["0", "0.00%", "", "", "", "", ""]
    assert cells["mixed"] == ["123 k", "8.00%", "", "61.0 s", "1.25 GiB", "", ""]
    assert cells["separate + route"][3] == "10.0 min"
    assert cells["separate+merge-svd"][3] == "11.0 min"
    assert cells["separate + late-fused"][3] == "11.0 min"
    assert "1 job and the fuse step" in cost
    assert "one after the other" not in cost


def test_an_empty_result_still_makes_a_page() -> None:
    assert "nothing to compare" in build(Report(title="empty", summary=Summary([], [])))


def test_bars_lie_where_the_numbers_are() -> None:
    at = charts.Scale(0, 1)
    bar = charts.bar(Estimate(0.5, 0.4, 0.6, 80), at, "separate", 0.9, "label")
    assert 'x="1.0%"' in bar
    assert 'width="49.00%"' in bar
    assert f'x1="{at(0.4)}%"' in bar
    assert f'x1="{at(0.9)}%"' in bar
    assert "whisker" not in charts.bar(Estimate(0.5, float("nan"), float("nan"), 8), at, "separate", None, "label")


def test_a_negative_tau_grows_to_the_left() -> None:
    at = charts.scale([Estimate(-0.5, -0.6, -0.4, 80), Estimate(0.5, 0.4, 0.6, 80)], share=False)
    left = re.search(
        r'class="bar merge" x="([\d.]+)%" y="5" width="([\d.]+)%"',
        charts.bar(Estimate(-0.5, -0.6, -0.4, 80), at, "merge", None, ""),
    )
    assert left is not None
    assert float(left[1]) + float(left[2]) == pytest.approx(at(0), abs=0.02)


def test_thumbnails(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.new("RGB", (900, 300), "red").save(path)
    uri = pictures.image(path)
    assert uri is not None
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 8_000
    sheet = pictures.strip([Image.new("RGB", (200, 100))] * 8)
    assert sheet.size == (4 * 86 - 2, 2 * 44 - 2)


def test_a_broken_picture_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    assert pictures.image(path) is None
