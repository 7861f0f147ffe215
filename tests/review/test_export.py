"""The tasks for people: which rows, in which order, and in the form that Label Studio takes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from latefuse.data.errors import DataError
from latefuse.review.audit import Verdict
from latefuse.review.export import CONFIG, choose, task, write

Made = Callable[..., Verdict]
ODD = '<script>alert("x")</script> 🍜 שלום עולם & co'


def test_abstentions_come_first_then_what_is_nearest_to_its_threshold(verdict: Made) -> None:
    drawn = np.random.default_rng(0).uniform(size=40)
    rows = [verdict(f"p{k:02d}", p, threshold=0.3 + 0.4 * (k % 2)) for k, p in enumerate(drawn.tolist())]
    rows = [verdict(r.id, r.probability, threshold=r.threshold, verdict="abstain" if k % 8 == 0 else r.verdict)
            for k, r in enumerate(rows)]  # fmt: skip
    chosen = choose(iter(rows), 12)
    assert len(chosen) == 12
    abstained, decided = chosen[:5], chosen[5:]
    assert {one.id for one in abstained} == {f"p{k:02d}" for k in range(0, 40, 8)}
    rest = [row for row in rows if row.verdict != "abstain"]
    gaps = sorted((abs(row.probability - row.threshold), row.id) for row in rest)
    assert [one.id for one in decided] == [name for _, name in gaps[:7]]
    own = [abs(one.probability - one.threshold) for one in abstained]
    assert own == sorted(own)


def test_no_abstention_is_left_out_for_the_limit(verdict: Made) -> None:
    rows = [verdict(f"p{k}", 0.4, verdict="abstain") for k in range(5)] + [verdict("q", 0.5)]
    assert [one.id for one in choose(rows, 2)] == [f"p{k}" for k in range(5)]


def test_of_a_pair_only_the_last_verdict_counts(verdict: Made) -> None:
    rows = [verdict("p", 0.5, verdict="abstain"), verdict("q", 0.9), verdict("p", 0.95)]
    assert [(one.id, one.probability) for one in choose(rows, 1)] == [("q", 0.9)]


@pytest.mark.parametrize(("p", "choice", "score"), [(0.62, "Relevant", 0.62), (0.3, "Not Relevant", 0.7)])
def test_the_verdict_is_the_pre_annotation(verdict: Made, p: float, choice: str, score: float) -> None:
    made = task(verdict("p", p, text=ODD))
    assert made["data"]["judgement"] == "p"
    assert made["data"]["text"] == ODD
    (prediction,) = made["predictions"]
    assert prediction["model_version"] == f"tiny {'a' * 12}"
    assert prediction["score"] == pytest.approx(score)
    (result,) = prediction["result"]
    assert result["type"] == "choices"
    assert result["value"] == {"choices": [choice]}
    assert len(result["id"]) == 10


def test_an_abstention_fills_nothing_in(verdict: Made) -> None:
    (prediction,) = task(verdict("p", 0.44, verdict="abstain"))["predictions"]
    assert prediction["result"] == []
    assert prediction["score"] == pytest.approx(0.56)


def test_tasks_and_configuration_fit_together(verdict: Made) -> None:
    """What Label Studio checks on import: variables stand in the data, names of results in the configuration."""
    root = ElementTree.fromstring(CONFIG)
    named = {tag.attrib["name"]: tag for tag in root.iter() if "name" in tag.attrib}
    variables = {tag.attrib["value"][1:] for tag in root.iter() if tag.attrib.get("value", "").startswith("$")}
    made = task(verdict("p"))
    assert variables == {"instruction", "image", "text"} <= set(made["data"])
    result = made["predictions"][0]["result"][0]
    control = named[result["from_name"]]
    assert control.tag == "Choices"
    assert control.attrib["toName"] == result["to_name"]
    assert named[result["to_name"]].tag == "Text"
    assert {tag.attrib["value"] for tag in control} == {"Relevant", "Not Relevant"}
    assert not set(named) - {"image", "text"} & set(made["data"]), "a column of its exports has one meaning"


def test_results_of_different_pairs_have_different_ids(verdict: Made) -> None:
    made = [task(verdict(f"p{k}")) for k in range(50)]
    assert len({one["predictions"][0]["result"][0]["id"] for one in made}) == 50


def test_pictures_are_addressed_below_the_prefix(verdict: Made) -> None:
    row = verdict("p", image="media/ab/odd name & 1#2.png")
    local = task(row)["data"]["image"]
    assert urlsplit(local).path == "/data/local-files/"
    assert parse_qs(urlsplit(local).query) == {"d": ["media/ab/odd name & 1#2.png"]}
    assert task(verdict("p"), "https://cdn/x/")["data"]["image"] == "https://cdn/x/media/ab/picture.png"
    for known in ("s3://bucket/a b.png", "data:image/png;base64,AAAA", "https://cdn/a.png?b=c"):
        assert task(verdict("p", image=known))["data"]["image"] == known


def test_a_pair_without_a_picture_has_one_that_loads(verdict: Made) -> None:
    head, data = task(verdict("p", image=""))["data"]["image"].split(",")
    assert head == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    picture.load()
    assert picture.size == (1, 1)


def test_the_files_are_a_list_of_tasks_and_their_configuration(verdict: Made, tmp_path: Path) -> None:
    rows = [verdict("p", text=ODD), verdict("q", 0.5, verdict="abstain")]
    path = write(rows, tmp_path / "new" / "project", "https://cdn/")
    assert json.loads(path.read_text(encoding="utf-8")) == [task(row, "https://cdn/") for row in rows]
    assert (path.parent / "labeling.xml").read_text(encoding="utf-8") == CONFIG


def test_a_project_without_tasks_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no verdict to show"):
        write([], tmp_path / "project")
    assert not (tmp_path / "project").exists()
