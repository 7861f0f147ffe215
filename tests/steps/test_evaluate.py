"""The evaluate step from finished adapters and merges to the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from latefuse.config import Evaluation, Task
from latefuse.config_fusion import Fusion
from latefuse.data.errors import DataError
from latefuse.evaluation.measure import spread
from latefuse.models.adapter_files import AdapterError
from latefuse.steps import evaluate, fuse
from latefuse.tracking import Null

TASKS = {
    "image": Task(modality="image"),
    "video": Task(modality="video"),
    "text": Task(modality="text"),
}
FUSION = Fusion(
    methods=("concat", "ties"), grid=(0.5, 1.0), search_rows=2, candidates=2, late={"steps": 5, "max_rows": 4}
)
pytestmark = pytest.mark.timeout(1_200)  # one set-up for the whole file
EVALUATION = Evaluation(
    max_new_tokens=6,
    bootstrap=50,
    min_interval_rows=4,
    batch_size=4,
    knockouts=("absent", "constant", "noise", "shuffled"),
)


MADE: list[tuple[Path, dict[str, Any], Remembering]] = []
FINISHED: list[Path] = []


class Remembering(Null):
    """A tracker that keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[dict[str, float]] = []
        self.files: list[str] = []

    def metrics(self, values: Any, step: int | None = None) -> None:
        self.calls.append(dict(values))

    def artifact(self, path: Any, folder: str | None = None) -> None:
        self.files.append(Path(path).name)


def _finished(make_finetuned: Callable[..., Path], seeds: tuple[int, ...] = (0, 1)) -> list[Path]:
    """Finetune folders of three tasks and the mixed control, two seeds, each with its result."""
    folders = []
    for seed in seeds:
        for name in (*TASKS, "mixed"):
            folder = make_finetuned(name, "image" if name == "mixed" else name, seed)
            numbers = {
                "trainable": 100,
                "trainable_share": 0.1,
                "train_tokens": 50,
                "samples_per_s": 4.0,
                "tokens_per_s": 8.0,
            }
            result = {"name": name, "seed": seed, "wall_s": 2.0, "peak_rss_gib": 0.5, **numbers}
            (folder / "result.json").write_text(json.dumps(result))
            folders.append(folder)
    return folders


@pytest.fixture
def outcome(
    dishes: Path, backbone_folder: Callable[..., Path], make_finetuned: Callable[..., Path], tmp_path: Path
) -> tuple[Path, dict[str, Any], Remembering]:
    """The step, run on two seeds, once for all tests of this file."""
    if MADE:
        return MADE[0]
    finished = _finished(make_finetuned)
    FINISHED[:] = finished
    fused = []
    for seed in (0, 1):
        fused.append(tmp_path / f"fused-{seed}")
        fuse.run(FUSION, TASKS, dishes, backbone_folder(), finished, seed, fused[-1], Null(), tmp_path / "cache")
    out, tracker = tmp_path / "evaluated", Remembering()
    result = evaluate.run(
        EVALUATION, TASKS, FUSION, dishes, backbone_folder(), finished, fused, out, tracker, tmp_path / "cache"
    )
    MADE.append((out, result, tracker))
    return MADE[0]


def test_everything_is_measured_once_and_told(outcome: tuple[Path, dict[str, Any], Remembering]) -> None:
    out, result, tracker = outcome
    scores = pl.read_parquet(out / "scores.parquet")
    full = scores.filter(pl.col("condition") == "full")
    arms = {
        "zero-shot", "mixed", "separate+route", "separate+merge-concat", "separate+merge-ties",
        "separate+late-same-input", "only-image", "only-video", "only-text",
    }  # fmt: skip
    for task, metric, rows in (("image", "dish_top1", 6), ("video", "dish_top1", 6), ("text", "exact_match", 6)):
        part = full.filter(pl.col("task") == task, pl.col("metric") == metric)
        assert set(part["arm"]) - {"zero-shot+grammar"} == arms
        for arm in arms:
            lines = part.filter(pl.col("arm") == arm)
            assert len(lines) == rows * (1 if arm == "zero-shot" else 2)
            assert lines.select("seed", "row").is_unique().all()
    fused = full.filter(pl.col("task") == "fused")
    assert set(fused["arm"]) == {"zero-shot", "mixed", "separate+late-fused"}
    assert result["fused_items"] == 6
    assert len(tracker.calls) == 1
    assert set(tracker.files) == set(evaluate.FILES)
    assert all((out / name).stat().st_size > 0 for name in evaluate.FILES)
    assert all(re.fullmatch(r"[\w\-. /:]+", name) for name in tracker.calls[0])


def test_routed_answers_are_those_of_the_own_adapter(outcome: tuple[Path, dict[str, Any], Remembering]) -> None:
    scores = pl.read_parquet(outcome[0] / "scores.parquet").drop("arm", "slice")
    everything = pl.read_parquet(outcome[0] / "scores.parquet")
    for task in TASKS:
        routed = scores.filter((everything["arm"] == "separate+route") & (everything["task"] == task))
        own = scores.filter((everything["arm"] == f"only-{task}") & (everything["task"] == task))
        assert routed.sort(routed.columns).equals(own.sort(own.columns))


def test_every_knock_out_is_there(outcome: tuple[Path, dict[str, Any], Remembering]) -> None:
    scores = pl.read_parquet(outcome[0] / "scores.parquet")
    own = scores.filter(pl.col("arm") == "separate+route", pl.col("task") == "video")
    kinds = {f"{kind}:video" for kind in ("absent", "constant", "noise", "shuffled")}
    assert set(own["condition"]) == {"full", *kinds}
    late = scores.filter(pl.col("arm") == "separate+late-fused")
    assert set(late["condition"]) == {"full"} | {
        f"{kind}:{m}" for kind in ("absent", "alone", "shuffled") for m in ("image", "video", "text")
    }


def test_alone_in_the_mixture_is_the_adapter_alone(outcome: tuple[Path, dict[str, Any], Remembering]) -> None:
    """One modality alone in the late fusion ranks as its own adapter does on that modality's rows."""
    said = pl.read_parquet(outcome[0] / "predictions.parquet").filter(pl.col("seed") == 0)
    mixture = said.filter(pl.col("arm") == "separate+late-fused", pl.col("condition") == "alone:image").sort("item")
    adapter = said.filter(pl.col("arm") == "only-image", pl.col("condition") == "full", pl.col("task") == "image").sort(
        "item"
    )
    seen = adapter.filter(pl.col("item") != "test-4")  # its picture is absent
    assert len(mixture) == 5
    assert mixture["rank"].to_list() == seen["rank"].to_list()


def test_a_row_without_its_medium_has_a_slice_of_its_own(outcome: tuple[Path, dict[str, Any], Remembering]) -> None:
    scores = pl.read_parquet(outcome[0] / "scores.parquet")
    absent = scores.filter(pl.col("slice") == "absent")
    assert set(absent["row"]) == {"test-4-image"}
    assert set(absent["condition"]) == {"full"}
    assert "eval/dish_top1/image/absent" in outcome[2].calls[-1]


def test_the_report_is_one_file_without_requests(outcome: tuple[Path, dict[str, Any], Remembering]) -> None:
    page = (outcome[0] / "report.html").read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page) + re.findall(r"url\(([^)]+)\)", page)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in page
    assert "data:image/jpeg;base64," in page
    assert "too few test rows" in page or "interval holds zero" in page or "beats" in page or "worse than" in page
    table = (outcome[0] / "table.txt").read_text()
    assert "separate + route" in table
    assert "separate + merge (concat)" in table


def test_metrics_have_the_fixed_names(outcome: tuple[Path, dict[str, Any], Remembering]) -> None:
    metrics = json.loads((outcome[0] / "metrics.json").read_text())
    scores = pl.read_parquet(outcome[0] / "scores.parquet")
    routed = scores.filter(arm="separate+route", task="image", metric="dish_top1", condition="full")["value"].mean()
    assert metrics["eval/dish_top1/image/separate-route"] == pytest.approx(routed)
    assert {"eval/contribution/image", "eval/contribution/video", "eval/contribution/text"} <= set(metrics)


def test_workers_side_by_side_find_what_one_process_finds(
    outcome: tuple[Path, dict[str, Any], Remembering],
    dishes: Path,
    backbone_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    out, _, _ = outcome
    finished = [out.parents[0] / name for name in ("fused-0", "fused-1")]
    settings = EVALUATION.model_copy(update={"workers": 2})
    again = tmp_path / "again"
    evaluate.run(
        settings, TASKS, FUSION, dishes, backbone_folder(), FINISHED, finished, again, Null(), tmp_path / "cache"
    )
    one, other = (pl.read_parquet(path / "scores.parquet") for path in (out, again))
    keys = ["arm", "seed", "condition", "task", "row", "metric"]
    assert one.select(keys).equals(other.select(keys))
    gaps = (one["value"] - other["value"]).abs().drop_nulls()
    assert float(gaps.max()) < 1e-6


def test_spread_takes_of_every_topic_its_share_in_stored_order() -> None:
    rows = [SimpleNamespace(topic="ab"[k % 2], number=k) for k in range(20)]
    chosen = spread(rows, 10)
    assert [row.number for row in chosen] == sorted(row.number for row in chosen)
    assert {topic: sum(row.topic == topic for row in chosen) for topic in "ab"} == {"a": 5, "b": 5}
    assert spread(rows, 20) == rows
    assert spread(rows, None) == rows


def test_an_adapter_of_no_task_is_refused(
    dishes: Path, backbone_folder: Callable[..., Path], make_finetuned: Callable[..., Path], tmp_path: Path
) -> None:
    finished = _finished(make_finetuned, (0,))
    tasks = {"image": TASKS["image"]}
    with pytest.raises(DataError, match="no task of this recipe"):
        evaluate.run(EVALUATION, tasks, FUSION, dishes, backbone_folder(), finished, [], tmp_path / "out", Null())


def test_an_adapter_of_another_dataset_is_refused(
    dishes: Path, backbone_folder: Callable[..., Path], make_finetuned: Callable[..., Path], tmp_path: Path
) -> None:
    finished = _finished(make_finetuned, seeds=(0,))
    card = finished[0] / "adapter" / "adapter.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"data_fingerprint": "f" * 16}))
    with pytest.raises(AdapterError, match=r"trained on dataset f+, .* run finetune on this dataset"):
        evaluate.run(EVALUATION, TASKS, FUSION, dishes, backbone_folder(), finished, [], tmp_path / "out", Null())
    with pytest.raises(AdapterError, match="trained on dataset"):
        fuse.run(FUSION, TASKS, dishes, backbone_folder(), finished, 0, tmp_path / "fused", Null())


def test_a_folder_without_result_is_named(dishes: Path, backbone_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"result\.json"):
        evaluate.run(EVALUATION, TASKS, FUSION, dishes, backbone_folder(), [tmp_path], [], tmp_path / "out", Null())
