"""What people said comes back as judgements: from every format, agreed on, never of the test split, for a recipe."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latefuse.config_data import Data
from latefuse.data import sources
from latefuse.data.dataset import Dataset, store_medium, write_dataset
from latefuse.data.errors import DataError
from latefuse.data.schema import TABLES, clean
from latefuse.review import export
from latefuse.review.audit import Verdict
from latefuse.review.corrections import Vote, corrected, read_votes, write

Made = Callable[..., Verdict]
ODD = '<script>alert("x")</script> 🍜 שלום עולם & co'
Row = dict[str, Any]


def row(id: str, label: bool = True, split: str = "train", **more: Any) -> Row:
    return {
        "id": id, "task": "claims", "instruction": "every claim fits", "image": "", "text": f"text of {id}",
        "label": label, "source": "demo", "negative": "" if label else "colour", "item": f"item-{id}",
        "split_item": split, **more,
    }  # fmt: skip


def vote(id: str, label: bool | None, who: str = "", time: str = "", where: str = "") -> Vote:
    return Vote(id, label, who, time, where or f"x.json#{id}{label}{who}{time}")


def annotation(number: int, choice: str | None, who: Any = 7, **more: Any) -> Row:
    """As Label Studio's JSON export has it."""
    result = {
        "id": f"r{number}", "type": "choices", "origin": "manual", "to_name": "text", "from_name": "relevance",
        "value": {"choices": [choice]},
    }  # fmt: skip
    return {
        "id": number, "completed_by": who, "result": [result] if choice else [], "was_cancelled": choice is None,
        "ground_truth": False, "created_at": "2026-11-22T10:00:00.5Z",
        "updated_at": f"2026-11-22T10:{number:02d}:00.5Z",
        "lead_time": 3.25, "prediction": {}, "result_count": 1, "unique_id": f"u{number}",
        "task": 100 + number, "project": 1, "updated_by": 7, "parent_prediction": None, **more,
    }  # fmt: skip


def exported(tasks: list[Row], answers: Sequence[list[Row]]) -> list[Row]:
    """The tasks of `export` as Label Studio gives them back: its own ids, predictions as numbers."""
    return [
        {
            "id": 100 + number, "annotations": given, "file_upload": "1-tasks.json", "drafts": [],
            "predictions": [number], "data": task["data"], "meta": {}, "inner_id": number, "project": 1,
            "total_annotations": len(given), "cancelled_annotations": sum(one["was_cancelled"] for one in given),
        }
        for number, (task, given) in enumerate(zip(tasks, answers, strict=True), start=1)
    ]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, Any], Path]:
    """(name, JSON or text) -> the file."""

    def written(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return written


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Six judgements, the last two of the test split, each with a picture."""
    out, rows = tmp_path / "dataset", []
    out.mkdir()
    for number in range(6):
        picture = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(picture)
        split = "train" if number < 3 else "valid" if number == 3 else "test"
        text = ODD if number == 0 else f"text {number}"
        rows.append(row(f"p{number}", number % 2 == 0, split, image=store_medium(out, picture), text=text))
    return write_dataset(out, {"judgements": rows})


def test_from_the_judge_to_people_to_the_next_recipe(
    verdict: Made, dataset: Dataset, tmp_path: Path, file: Callable[[str, Any], Path]
) -> None:
    rows = dataset.rows("judgements")
    told = [verdict(r["id"], 0.4 + 0.05 * k, image=r["image"], text=r["text"]) for k, r in enumerate(rows)]
    tasks = json.loads(export.write(export.choose(told, 6), tmp_path / "project").read_text(encoding="utf-8"))
    by_id = {task["data"]["judgement"]: task for task in tasks}
    answers = {
        "p0": [annotation(1, "Not Relevant", {"id": 7, "email": "ann@example.org"})],
        "p1": [annotation(2, "Relevant"), annotation(3, "Relevant", 8), annotation(4, "Not Relevant", 9)],
        "p2": [annotation(5, None)],
        "p3": [annotation(6, "Not Relevant")],
        "p4": [annotation(7, "Not Relevant")],
        "p5": [],
    }
    path = file("export.json", exported([by_id[name] for name in answers], list(answers.values())))
    found = corrected(read_votes(path), rows)
    assert [(one["id"][:10], one["label"], one["negative"]) for one in found.rows] == [
        ("p0-person-", False, "person"), ("p1-person-", True, ""), ("p3-person-", False, "colour"),
    ]  # fmt: skip
    assert (found.changed, found.skipped, found.tied, found.test) == (2, 2, 0, 2)
    assert "2 pair(s) of the test split, which nothing may learn from" in found.told()

    written = write(found.rows, tmp_path / "corrections", dataset.media)
    assert "ann@" not in written.read_text(encoding="utf-8")
    options = {"tables": {"judgements": {"file": written.name}}}
    source = sources.build(Data(source="manifest", path=str(written.parent), options=options), tmp_path)
    learned = [clean("judgements", one) for one in source.tables()["judgements"]()]
    kept = ("task", "instruction", "image", "text", "item", "split_item")
    old = {one["id"]: one for one in rows}
    assert [{name: one[name] for name in kept} for one in learned] == [
        {name: old[id][name] for name in kept} for id in ("p0", "p1", "p3")
    ]
    assert {one["source"] for one in learned} == {"person"}
    assert [one["label"] for one in learned] == [False, True, False]
    for one in learned:
        assert (written.parent / one["image"]).read_bytes() == dataset.media(one["image"]).read_bytes()


def test_every_format_of_label_studio_says_the_same(verdict: Made, file: Callable[[str, Any], Path]) -> None:
    """Under "id", JSON-MIN and CSV have a number of Label Studio's own."""
    tasks = [export.task(verdict("p, 0", text=ODD)), export.task(verdict("p1"))]
    chosen = ["Not Relevant", "Relevant"]
    full = exported(tasks, [[annotation(k + 1, choice, "ann")] for k, choice in enumerate(chosen)])
    flat = [
        {**one["data"], "id": one["id"], "relevance": choice, "annotator": "ann", "annotation_id": 1,
         "created_at": "2026-11-22T10:00:00.5Z", "updated_at": one["annotations"][0]["updated_at"], "lead_time": 3.25}
        for one, choice in zip(full, chosen, strict=True)
    ]  # fmt: skip
    expected = [(v.id, v.label, v.who, v.time) for v in read_votes(file("full.json", full))]
    assert expected[0][:3] == ("p, 0", False, "ann")
    paths = [file("min.json", flat)]
    for name, delimiter in (("flat.csv", ","), ("flat.tsv", "\t")):
        paths.append(file(name, ""))
        with paths[-1].open("w", newline="", encoding="utf-8") as handle:
            table = csv.DictWriter(handle, sorted(flat[0]), delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC)
            table.writeheader()
            table.writerows(flat)
    for path in paths:
        assert [(v.id, v.label, v.who, v.time) for v in read_votes(path)] == expected, path.name


def test_a_plain_table_of_ids_and_labels(file: Callable[[str, Any], Path]) -> None:
    path = file("labels.csv", "id,label,who\na,Relevant,x\na,not relevant,y\nb,yes,\nc,0,\nd,,z\n")
    assert [(v.id, v.label, v.who) for v in read_votes(path)] == [
        ("a", True, "x"), ("a", False, "y"), ("b", True, ""), ("c", False, ""), ("d", None, "z"),
    ]  # fmt: skip


def _labels(count: int, digits: int) -> Iterator[bool | None]:
    for _ in range(count):
        yield (True, False, None)[digits % 3]
        digits //= 3


@pytest.mark.parametrize("people", [1, 2, 3])
def test_the_majority_decides_and_a_tie_is_left_out(people: int) -> None:
    for case in range(3**people):
        cast = list(_labels(people, case))
        votes = [vote("p", label, f"who{k}") for k, label in enumerate(cast)]
        found = corrected(votes, [row("p")])
        yes, no = cast.count(True), cast.count(False)
        assert [one["label"] for one in found.rows] == ([yes > no] if yes != no else [])
        assert found.tied == (yes == no > 0)
        assert found.skipped == cast.count(None)
        assert found.changed == (no > yes)


def test_a_person_has_one_vote_the_last() -> None:
    votes = [
        vote("p", True, "ann", "2026-11-22T12:00:00Z"), vote("p", False, "ann", "2026-11-22T10:00:00Z"),
        vote("q", True, "ann"), vote("q", False, "ann"),
        vote("r", True), vote("r", True), vote("r", False, "ann"),
        vote("s", False, "ann", "1"), vote("s", None, "ann", "2"),
    ]  # fmt: skip
    votes[5] = vote("r", True, where="x.json#other")
    found = corrected(votes, [row(id) for id in "pqrs"])
    assert [(one["id"][0], one["label"]) for one in found.rows] == [("p", True), ("q", False), ("r", True)]
    assert found.skipped == 1


def test_ids_tell_the_pair_and_who_decided_but_not_their_names() -> None:
    rows = [row("p")]

    def named(*votes: Vote) -> str:
        (one,) = corrected(votes, rows).rows
        return str(one["id"])

    alone = named(vote("p", True, "ann@example.org"))
    assert alone == named(vote("p", False, "ann@example.org"))
    both = named(vote("p", True, "bob"), vote("p", True, "ann@example.org"))
    assert both == named(vote("p", True, "ann@example.org"), vote("p", True, "bob"))
    outvoted = named(vote("p", True, "bob"), vote("p", True, "ann@example.org"), vote("p", False, "eve"))
    assert len({alone, both}) == 2
    assert outvoted == both
    assert alone.startswith("p-person-")
    assert "ann" not in alone


def test_a_new_row_has_the_columns_of_the_table_and_no_others() -> None:
    (one,) = corrected([vote("p", True, "ann")], [row("p", score=1.0)]).rows
    assert set(one) == set(TABLES["judgements"].names)
    pair = {name: value for name, value in row("p").items() if name in ("id", "instruction", "text")}
    found = corrected([vote("p", False, "ann")], [pair])
    assert found.changed == 0, "a pair without a label is not changed"
    assert found.rows[0]["negative"] == "person"


def test_a_row_of_the_test_split_is_never_learned_from() -> None:
    rows = [row("p", split="test"), row("q", split="valid"), row("r", split="test")]
    found = corrected([vote(id, False, "ann") for id in "pqr"], rows)
    assert [one["split_item"] for one in found.rows] == ["valid"]
    assert found.test == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"data": {"judgement": "p"}, "annotations": [annotation(1, "Relevent")]}],
         r"export\.json#1, annotation 1: no answer 'Relevent'; did you mean 'Relevant'\?"),
        ([{"data": {"judgement": "p"}, "annotations": []}, {"data": {"text": "t"}, "annotations": []}],
         r"export\.json#2: no 'judgement'"),
        ([{"data": {"judgement": "p"}, "annotations": [
            annotation(1, "x", result=[{"from_name": "relevance", "value": {"choices": ["Relevant", "Not Relevant"]}}])
         ]}], r"#1, annotation 1: 'Relevant', 'Not Relevant' where one answer"),
        ([{"data": {"judgement": "p"}, "annotations": [17]}], r"#1, annotation 1: no annotation but 17"),
        ([{"data": "p", "annotations": []}], "no task of Label Studio"),
        ([{"judgement": "p", "verdict": "relevant"}], r"export\.json: missing column 'label'"),
        ([{"name": "p", "label": "yes"}], r"export\.json: missing column 'id'"),
        ([], r"export\.json: no rows"),
        ('[{"judgement": "p", "relevance": "Relev', r"export\.json#1: not JSON"),
    ],
)  # fmt: skip
def test_what_can_not_be_understood_is_told_with_its_place(
    file: Callable[[str, Any], Path], content: Any, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        read_votes(file("export.json", content))


def test_mistakes_in_a_table_are_told_by_line(file: Callable[[str, Any], Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv:3: no answer 'perhaps'"):
        read_votes(file("labels.csv", "id,label\np,yes\nq,perhaps\n"))
    with pytest.raises(DataError, match=r"labels\.csv:2: torn-row"):
        read_votes(file("labels.csv", "id,label\np,yes,no\n"))
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read_votes(tmp_path / "gone.csv")


def test_an_unknown_pair_is_told_with_the_nearest(file: Callable[[str, Any], Path]) -> None:
    votes = read_votes(file("labels.csv", "id,label\npair-1,yes\npair-21,no\n"))
    with pytest.raises(DataError, match=r"labels\.csv:3: no judgement 'pair-21'.*did you mean 'pair-2'\?"):
        corrected(votes, [row(f"pair-{k}") for k in range(3)])


def test_a_task_that_nobody_answered_counts_as_skipped(file: Callable[[str, Any], Path]) -> None:
    path = file("export.json", [{"data": {"judgement": "p"}, "annotations": [], "predictions": [3]}])
    found = corrected(read_votes(path), [row("p")])
    assert (found.rows, found.skipped) == ([], 1)
    assert found.told() == "0 judgement(s) by people, 0 of them against the label they had; left out: 1 vote(s) skipped"


def test_an_empty_table_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no judgement to write"):
        write([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
