"""The embedding task from pairs to report: trained, measured beside its controls, exported, searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from latefuse import cli
from latefuse.config import Evaluation, Job, Recipe
from latefuse.config_fusion import Fusion
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.data.errors import DataError
from latefuse.evaluation import pool
from latefuse.steps import evaluate, finetune
from latefuse.tracking import Null

RECIPE: dict[str, Any] = {
    "name": "x",
    "data": {"source": "demo"},
    "adapter": {"r": 4},
    "train": {"max_steps": 4, "batch_size": 16, "lr": 0.01, "log_every": 1},
    "tasks": {"both": {"kind": "embed", "modality": ["text", "image"], "embed": {"dim": 16}}},
    "arms": {
        "text-only": {"modality": ["text"]},
        "base": {"embed": {"prompt": "basic", "gate": False}},
        "shuffled": {"embed": {"shuffled": ["image"]}},
    },
}
EVALUATION = Evaluation(bootstrap=50, min_interval_rows=5, retrieval={"ks": [1, 10], "neighbours": 2, "pairs": "all"})


class Heard(Null):
    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def metrics(self, values: Any, step: int | None = None) -> None:
        self.values |= values


@pytest.fixture(scope="module")
def trained(shop_items: Path, backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every arm of two kinds of backbones, finetuned: family -> arm -> folder."""
    recipe = Recipe.model_validate(RECIPE)
    found: dict[str, dict[str, Path]] = {}
    for family in ("glued_mlp", "light_conv"):
        for arm, task in recipe.variants().items():
            out = tmp_path_factory.mktemp(f"{family}-{arm}")
            job = Job(name=arm, seed=0, tasks={"both": task})
            finetune.run(job, shop_items, backbone_folder(family), out, Null(), out / "cache")
            found.setdefault(family, {})[arm] = out
    return found


def measured(
    family: str, trained: Any, shop: Path, base: Path, out: Path, heard: Heard, **changes: Any
) -> dict[str, Any]:
    tasks = Recipe.model_validate(RECIPE).variants()
    evaluation = EVALUATION.model_copy(update=changes)
    folders = list(trained[family].values())
    return evaluate.run(evaluation, tasks, Fusion(), shop, base, folders, [], out, heard, out / "cache")


@pytest.mark.parametrize("family", ["glued_mlp", "light_conv"])
def test_every_arm_stands_beside_its_controls(
    family: str, trained: Any, shop_items: Path, backbone_folder: Callable[..., Path], tmp_path: Path
) -> None:
    heard = Heard()
    result = measured(family, trained, shop_items, backbone_folder(family), tmp_path, heard)
    arms = ["popularity", "co-occurrence", "zero-shot words", "zero-shot picture", *RECIPE["arms"], "both"]
    assert result["arms"] == arms
    assert (result["queries"], result["pool"], result["left_out"]) == (19, 59, 1)
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    mine = scores.filter(arm="both", condition="full", metric="recall_at_10")
    assert heard.values["eval/recall_at_10"] == pytest.approx(mine["value"].mean())
    assert set(scores.filter(arm="both")["condition"]) == {
        "full", "only:text", "only:image", "constant:text", "constant:image", "shuffled:text", "shuffled:image",
    }  # fmt: skip
    assert set(scores.filter(arm="text-only")["condition"]) == {"full"}
    # Words say nothing of the groups and the colour of the picture says everything.
    assert heard.values["eval/recall_at_10/zero-shot picture"] > 0.9
    assert heard.values["eval/recall_at_10/zero-shot words"] < 0.6
    page = (tmp_path / "report.html").read_text()
    for words in ("co-occurrence", "text-only", "thing 4", "R@10", "shuffled"):
        assert words in page
    assert "both" in (tmp_path / "table.txt").read_text()
    flows = json.loads((tmp_path / "saliency.json").read_text())
    assert bool(flows) == (family == "glued_mlp")
    for layers in flows.values():
        for layer in layers:
            assert sum(layer.values()) == pytest.approx(1, abs=1e-5)


def test_scores_are_those_of_the_vectors_by_brute_force(
    trained: Any, shop_items: Path, backbone_folder: Callable[..., Path], tmp_path: Path
) -> None:
    measured("light_conv", trained, shop_items, backbone_folder("light_conv"), tmp_path, Heard())
    parts = pl.concat([pl.read_parquet(path) for path in sorted((tmp_path / "vectors").glob("*.parquet"))])
    vectors = {row["id"]: np.array(row["vector"]) for row in parts.iter_rows(named=True)}
    pairs: dict[str, set[str]] = {}
    for row in Dataset(shop_items).rows("pairs", "test", scheme="item"):
        if "item-59" not in (row["a"], row["b"]):
            pairs.setdefault(row["a"], set()).add(row["b"])
    scores = pl.read_parquet(tmp_path / "scores.parquet").filter(arm="both", condition="full", metric="recall_at_10")
    told = dict(zip(scores["row"], scores["value"], strict=True))
    assert set(told) == set(pairs)
    for query, partners in pairs.items():
        found = 0
        for partner in partners:
            reached = vectors[query] @ vectors[partner]
            better = sum(vectors[query] @ v >= reached for key, v in vectors.items() if key not in (query, partner))
            found += better < 10
        assert told[query] == pytest.approx(found / len(partners))


def test_two_workers_measure_the_same(
    trained: Any, shop_items: Path, backbone_folder: Callable[..., Path], tmp_path: Path
) -> None:
    found = {}
    for workers in (1, 2):
        heard = Heard()
        out = tmp_path / str(workers)
        measured("light_conv", trained, shop_items, backbone_folder("light_conv"), out, heard, workers=workers)
        found[workers] = {name: value for name, value in heard.values.items() if name.startswith("eval/")}
    assert found[1] == pytest.approx(found[2])


def test_the_paper_s_protocol_takes_queries_out_of_the_pool(shop_items: Path) -> None:
    task = Recipe.model_validate(RECIPE).tasks["both"]
    one = EVALUATION.model_copy(update={"retrieval": EVALUATION.retrieval.model_copy(update={"pairs": "one"})})
    found = pool.build(Dataset(shop_items), task, one)
    ends = [*found.query.tolist(), *found.target.tolist()]
    assert len(ends) == len(set(ends)) == 2 * 8
    assert not found.allowed[found.query].any()
    assert found.size == 59 - 8
    split = one.model_copy(update={"retrieval": one.retrieval.model_copy(update={"pool": "split"})})
    assert pool.build(Dataset(shop_items), task, split).size == 19 - 8
    assert set(found.slices) == {"short-query", "short-target", "cold"}


def crossing(folder: Path) -> Dataset:
    """Twelve items, words only: of two training items one is popular, and held-out items ask for both."""
    splits = ["train"] * 6 + ["valid"] * 3 + ["test"] * 3
    items = [{"id": f"i{n:02d}", "title": f"thing {n}", "split_item": one} for n, one in enumerate(splits)]
    pairs = [{"a": "i00", "b": f"i0{n}", "split_item": "train"} for n in range(1, 6)]
    pairs += [{"a": f"i{n:02d}", "b": "i00"} for n in range(6, 12)]
    pairs += [{"a": f"i{n:02d}", "b": "i01"} for n in (9, 10)] + [{"a": "i06", "b": "i09"}, {"a": "i02", "b": "i10"}]
    pairs += [{"a": "i09", "b": "i10", "split_item": "test"}]
    return write_dataset(folder / "crossing", {"items": items, "pairs": [{"weight": 1.0, **pair} for pair in pairs]})


def test_a_new_item_asks_for_known_ones(tmp_path: Path) -> None:
    task = Recipe.model_validate({**RECIPE, "arms": {}}).tasks["both"]
    retrieval = EVALUATION.retrieval.model_copy(update={"targets": "known", "prior": (0.0, 0.5), "pool": "split"})
    how = EVALUATION.model_copy(update={"retrieval": retrieval})
    found = pool.build(crossing(tmp_path), task, how)
    asked = [(int(found.query[q]), int(t)) for q, t in zip(found.query_of, found.target, strict=True)]
    assert sorted(asked) == [(9, 0), (9, 1), (10, 0), (10, 1), (11, 0)]
    assert found.allowed.tolist() == [True] * 6 + [False] * 6
    assert found.valid is not None
    assert found.valid.query.tolist() == [6, 7, 8]
    assert found.valid.target.tolist() == [0, 0, 0]
    all_of_them = how.model_copy(update={"retrieval": retrieval.model_copy(update={"pool": "catalogue"})})
    assert pool.build(crossing(tmp_path / "again"), task, all_of_them).size == 12


def test_weights_are_chosen_by_valid_pairs_or_not_at_all(shop_items: Path, tmp_path: Path) -> None:
    by_pair = Recipe.model_validate({**RECIPE, "data": {"source": "demo", "splits": {"scheme": "pair"}}, "arms": {}})
    retrieval = EVALUATION.retrieval.model_copy(update={"prior": (0.0, 0.5)})
    with pytest.raises(DataError, match="no pair in split 'valid' of scheme 'pair'"):
        pool.build(Dataset(shop_items), by_pair.tasks["both"], EVALUATION.model_copy(update={"retrieval": retrieval}))
    assert pool.build(Dataset(shop_items), by_pair.tasks["both"], EVALUATION).valid is None


def test_the_weight_of_popularity_that_was_chosen_is_told(
    trained: Any, shop_items: Path, backbone_folder: Callable[..., Path], tmp_path: Path
) -> None:
    heard = Heard()
    retrieval = EVALUATION.retrieval.model_copy(update={"prior": (0.3,)})
    measured("light_conv", trained, shop_items, backbone_folder("light_conv"), tmp_path, heard, retrieval=retrieval)
    assert "both, seed 0 0.3" in (tmp_path / "report.html").read_text()
    # No held-out item stands in a training pair, so that training items come in front of every target.
    assert heard.values["eval/recall_at_10/both"] < 0.1


def test_what_a_query_is_known_to_go_with_does_not_compete(shop_items: Path) -> None:
    recipe = Recipe.model_validate({**RECIPE, "data": {"source": "demo", "splits": {"scheme": "pair"}}})
    data = Dataset(shop_items)
    found = pool.build(data, recipe.tasks["both"], EVALUATION)
    place = {item.id: number for number, item in enumerate(found.items)}
    targets = {(int(found.query[q]), int(t)) for q, t in zip(found.query_of, found.target, strict=True)}
    wanted = {(one, one) for one in found.query.tolist()}
    for row in data.rows("pairs", "train", scheme="pair"):
        for a, b in ((row["a"], row["b"]), (row["b"], row["a"])):
            if a in place and b in place and place[a] in found.query.tolist():
                wanted.add((place[a], place[b]))
    numbers, places = found.excluded
    told = set(zip(found.query[numbers].tolist(), places.tolist(), strict=True))
    assert told == wanted - targets
    assert len(told) > len(found.query)


def test_an_empty_pool_and_an_adapter_of_no_arm_are_told(
    trained: Any, shop_items: Path, backbone_folder: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = Recipe.model_validate(RECIPE)
    task = recipe.tasks["both"]
    silent = Dataset(shop_items)
    with pytest.raises(DataError, match="no pair in split 'test' of scheme 'item'"):
        pool.build(_without_pairs(shop_items, tmp_path), task, EVALUATION)
    bare = task.model_copy(update={"modality": ()})
    with pytest.raises(DataError, match="there is nothing to search"):
        pool.build(silent, bare, EVALUATION)
    folders, base = [trained["light_conv"][arm] for arm in ("both", "shuffled")], backbone_folder("light_conv")
    with pytest.raises(DataError, match="an adapter of 'shuffled', which is no arm of this recipe"):
        evaluate.run(EVALUATION, recipe.tasks, Fusion(), shop_items, base, folders, [], tmp_path / "out", Null())


def _without_pairs(shop: Path, folder: Path) -> Dataset:
    rows = [{**row, "number": None} for row in Dataset(shop).rows("items")]
    pairs = [{"a": "item-00", "b": "item-01", "split_item": "train"}]
    return write_dataset(folder / "bare", {"items": [{**r, "images": [], "videos": []} for r in rows], "pairs": pairs})


def test_a_catalogue_is_embedded_searched_and_an_index_of_another_adapter_is_refused(
    trained: Any, shop_items: Path, backbone_folder: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path / "home"))
    base, adapter = str(backbone_folder("light_conv")), str(trained["light_conv"]["both"])
    out = str(tmp_path / "index")
    embed = ["embed", adapter, "--backbone", base, "--dataset", str(shop_items), "--out", out, "--part", "25"]
    assert cli.main(embed) == 0
    assert "59 vectors written, 1 without a field to read left out" in capsys.readouterr().out
    assert cli.main(embed) == 0
    assert "0 vectors written, 59 kept" in capsys.readouterr().out
    assert cli.main(["search", out, "--item", "item-20", "-k", "4"]) == 0
    shown = capsys.readouterr().out.split()
    assert len([word for word in shown if word.startswith("item-")]) == 4
    assert "item-20" not in shown
    photo = Dataset(shop_items).media(Dataset(shop_items).rows("items")[20]["images"][0])
    asked = ["search", out, "--photo", str(photo), "--words", "a thing of wood", "--backbone", base, "--adapter"]
    assert cli.main([*asked, adapter, "-k", "200"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 59
    assert cli.main([*asked, str(trained["light_conv"]["shuffled"])]) == 2
    assert "their vectors can't be compared" in capsys.readouterr().err
    for option in ("--part", "--batch-size"):
        with pytest.raises(SystemExit):
            cli.main([*embed, option, "0"])
        assert f"argument {option}: '0' is no whole number of at least 1" in capsys.readouterr().err
    assert cli.main(["search", out]) == 2
    assert "say what to look for" in capsys.readouterr().err
    assert cli.main(["search", out, "--item", "item-2o"]) == 2
    assert "no item 'item-2o'; did you mean" in capsys.readouterr().err


def test_two_processes_learn_what_one_learns(
    shop_items: Path, backbone_folder: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = Recipe.model_validate({**RECIPE, "train": {**RECIPE["train"], "max_grad_norm": 0.5}})
    found = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launcher = "none" if processes == 1 else "torchrun"
        job = Job(name="both", seed=0, tasks=recipe.tasks, launcher=launcher, processes=processes, threads=1)
        found[processes] = finetune.run(job, shop_items, backbone_folder("light_conv"), out, Null(), tmp_path / "cache")
    assert found[2]["processes"] == 2
    assert found[2]["losses"][0] == pytest.approx(found[1]["losses"][0], rel=0.2)  # modality dropout draws by batch
    assert torch.isfinite(torch.tensor(found[2]["losses"])).all()
