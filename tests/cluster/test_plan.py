"""What a run would take: the graph as compiled, memory against GPUs, hours and money, and every reason not to start."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from latefuse import cli
from latefuse.cluster import asked, images, work
from latefuse.cluster.durations import rows_read
from latefuse.cluster.fits import fit, kept_a_token, load_of, quantity
from latefuse.cluster.kept import FULL
from latefuse.cluster.memory import GIB
from latefuse.cluster.plan import make_plan
from latefuse.cluster.plan_text import text
from latefuse.cluster.shapes import shapes_of
from latefuse.cluster.there import ClusterError
from latefuse.config_prices import load_prices
from latefuse.configfile import load
from latefuse.sections import ConfigError
from pipelines.compile import specification

PRICES = Path("configs/prices.yaml")
SEVEN = "configs/recipes/video_llava_7b.yaml"
MOVED = 2 * 7_366_279_168 / 100e6
"""Seconds for its weights at 100 MB/s."""
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setattr(images.resolved, "__defaults__", (tmp_path / "nothing-built.json",))
    for name in ("KUBECONFIG", asked.ALLOW_TAG):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def planned(recipe, profile, *sets, allow_tags=True, **prices):
    given = load_prices(PRICES).model_copy(update=prices)
    return make_plan(load(recipe, profile, sets), given, specification, allow_tags)


@pytest.fixture
def profile(tmp_path):
    """A changed copy of a profile; `finetune` holds what changes of that step."""

    def write(name="gpu", finetune=None, **more):
        raw = yaml.safe_load(Path(f"configs/profiles/{name}.yaml").read_text())
        raw["steps"]["finetune"].update(finetune or {})
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump({**raw, **more}))
        return path

    return write


def test_a_7b_fits_eight_h100_and_the_graph_is_the_compiled_one():
    plan = planned(SEVEN, "gpu")
    assert plan.problems == []
    assert [node.name for node in plan.nodes][:2] == ["backbone", "prepare"]
    by_name = {node.name: node for node in plan.nodes}
    assert len(by_name) == 9
    assert by_name["fuse"].after == ("backbone", "finetune-image", "finetune-text", "finetune-video", "prepare")
    assert by_name["finetune-video"].resources.gpu == 8
    weights = plan.fits[0].memory.weights
    assert weights == 2 * plan.shapes.parameters == 2 * 7_366_279_168
    assert all(fit.needed < 40 * GIB for fit in plan.fits)


def test_hours_and_money_are_the_products_of_what_is_named():
    plan = planned(SEVEN, "gpu")
    node = next(node for node in plan.nodes if node.name == "finetune-text")
    job = next(job for job in plan.config.jobs() if job.name == "text")
    [task] = job.tasks.values()
    rows, prices = 1500 * 64, plan.prices
    assert rows_read(task) == rows
    learns = next(fit for fit in plan.fits if fit.node == "finetune-text").learns.numbers
    flops = rows * work.training(plan.shapes, 128, 48, 0, learns, checkpointing=True)
    start = prices.start_s.value + MOVED
    assert node.duration.low == pytest.approx(flops / (8 * 989e12 * prices.utilisation.high) + start)
    assert node.duration.high == pytest.approx(flops / (8 * 989e12 * prices.utilisation.low) + start)
    assert node.money[1] == pytest.approx(node.duration.high / 3600 * 8 * prices.gpus["H100-80GB"].hour.value)
    assert plan.elapsed[1] == pytest.approx(sum(node.duration.high for node in plan.nodes))
    assert plan.elapsed[0] < sum(node.duration.low for node in plan.nodes)


def test_features_are_made_once_a_medium_where_the_table_is_known():
    given = load_prices(PRICES)
    plan = make_plan(load(SEVEN, "gpu"), given, specification, True, table=10_000)
    assert plan.kept["video"] == 10_000 * 8 * 257 * 1024 * 2
    assert plan.kept["image"] == 10_000 * 257 * 1024 * 2
    [few] = [node.duration for node in plan.nodes if node.name == "finetune-video"]
    [many] = [node.duration for node in planned(SEVEN, "gpu").nodes if node.name == "finetune-video"]
    spared = 3000 * 64 - 10_000
    flops = spared * work.encoding(plan.shapes, "video", 8)
    seconds = spared * given.clip_s.value / 64 + flops / (8 * 989e12 * given.utilisation.high)
    assert many.low - few.low == pytest.approx(seconds)


def test_two_nodes_halve_the_state_and_the_hours():
    one, two = planned(SEVEN, "gpu"), planned(SEVEN, "multinode")
    find = lambda plan: next(node for node in plan.nodes if node.name == "finetune-video")  # noqa: E731
    start = one.prices.start_s.value + MOVED
    assert (find(two).duration.low - start) * 2 == pytest.approx(find(one).duration.low - start)
    assert find(two).nodes == 2
    assert [a.memory.optimiser for a in one.fits] == [2 * b.memory.optimiser for b in two.fits]
    assert "2 x (8 x H100-80GB, 64 cores, 512Gi)" in text(two)
    assert "trainjobs.trainer.kubeflow.org" in text(two)


def test_prepare_stores_media_beside_one_another_and_shards_divide_them():
    """480,000 rows, of which 192,000 have a picture and 192,000 a clip."""
    whole, parts = ({node.name: node.duration for node in planned(SEVEN, name).nodes} for name in ("gpu", "multinode"))
    prices = load_prices(PRICES)
    rows, media = 480_000 * 90e-6, 192_000 * (prices.clip_s.value + 1e-3) / 16
    assert whole["prepare"].low == pytest.approx(60 + rows + media)
    assert parts["prepare-shard-3"].low == pytest.approx(60 + (rows + media) / 4)
    assert parts["prepare"].low == pytest.approx(60 + rows)


def test_a_catalogue_is_embedded_in_shares_and_its_index_reads_no_model(tmp_path):
    recipe = tmp_path / "vectors.yaml"
    told = yaml.safe_load(Path(SEVEN).read_text()) | {"catalogue": {}, "name": "vectors"}
    told["tasks"] = {"both": {"kind": "embed", "modality": ["image", "text"]}}
    told.pop("fusion")
    recipe.write_text(yaml.safe_dump(told))
    prices = load_prices(PRICES)
    one, four = (make_plan(load(recipe, name), prices, specification, True, 100_000) for name in ("gpu", "multinode"))
    assert one.problems == four.problems == []
    alone, part = ({node.name: node for node in plan.nodes} for plan in (one, four))
    whole, quarter = (node.duration.high - 60 - MOVED for node in (alone["embed-shard-0"], part["embed-shard-3"]))
    assert whole == pytest.approx(4 * quarter)
    assert alone["embed-shard-0"].resources.gpu == 1
    assert alone["embed"].resources.gpu == 0
    assert alone["embed"].duration.low == pytest.approx(60 + 9)


@pytest.mark.parametrize(
    ("step", "sets", "words"),
    [
        ("evaluate", ["evaluation.batch_size=32"], r"a batch of 32 rows need 1[23]\d\.\d GiB, a H100-80GB has 79.1"),
        ("evaluate", {"gpu_kind": "L4-24GB"}, r"a batch of 8 rows need \d+\.\d GiB, a L4-24GB has 22.0"),
        (
            "evaluate",
            {"memory": "8Gi"},
            r"reading the backbone in float32 takes 28.1 GiB, .* is 8Gi",
        ),
        ("fuse", {"gpu": 0, "gpu_kind": None, "memory": "8Gi"}, r"the backbone and a batch in float32 takes .* is 8Gi"),
    ],
)
def test_what_measures_and_fuses_must_fit_as_well(step, sets, words, tmp_path):
    raw = yaml.safe_load(Path("configs/profiles/gpu.yaml").read_text())
    if isinstance(sets, dict):
        raw["steps"][step] = {**raw["steps"][step], **sets, "timeout_s": 10_000_000}
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(raw))
    plan = planned(SEVEN, str(path), *(sets if isinstance(sets, list) else ()))
    assert re.search(rf"{step}: .*{words}", "\n".join(plan.problems))
    assert all(problem.startswith(step) for problem in plan.problems)


def test_keys_and_values_are_those_of_a_real_cache():
    """Bytes that a batch adds to the weights, against a model that writes: its cache is most of them."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=3, vocab_size=50, **heads)
    model, cache = LlamaForCausalLM(config).eval(), DynamicCache()
    model(input_ids=torch.zeros(5, 40, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    language = shapes_of(config.to_dict()).language
    assert held == FULL * 5 * 40 * kept_a_token(language)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["train.gradient_checkpointing=false", "train.batch_size=128"], "needs .* GiB, a H100-80GB has 79.1"),
        (["train.batch_size=12"], "choose a multiple of 8"),
        (["tasks.video.train.max_tokens=512"], "its media take 2,056 tokens.*set it to 2,312"),
        (["backbone.name=who/knows"], "stands neither in"),
    ],
)
def test_what_can_not_be_is_a_problem(sets, words):
    plan = planned(SEVEN, "gpu", *sets)
    assert any(re.search(words, problem) for problem in plan.problems), plan.problems


@pytest.mark.parametrize("recipe", ["notellm2", "mmrec", "vip5"])
def test_what_is_not_reckoned_is_a_note_and_its_batches_are_checked_all_the_same(recipe):
    plan = planned(f"configs/recipes/{recipe}.yaml", "gpu")
    assert any("not told in advance" in note for note in plan.notes)
    assert plan.problems == []
    plan = planned(f"configs/recipes/{recipe}.yaml", "gpu", "train.batch_size=36")
    assert all("choose a multiple of 8" in problem for problem in plan.problems)
    assert plan.problems


def test_a_smaller_gpu_is_too_small(profile):
    plan = planned(SEVEN, profile(finetune={"gpu_kind": "L4-24GB"}))
    assert any("finetune-video: a process needs" in problem for problem in plan.problems)
    assert not any("finetune-image: a process" in problem for problem in plan.problems)


def test_an_unknown_gpu_no_shm_too_little_memory_and_too_short_a_time(profile):
    plan = planned(SEVEN, profile(finetune={"gpu_kind": "H100-80G"}))
    assert plan.problems[0].startswith("finetune: gpu_kind 'H100-80G' has no entry; did you mean 'H100-80GB'?")
    assert text(plan)
    both = planned(SEVEN, profile(finetune={"gpu_kind": "H100-80G"}), "backbone.name=who/knows").problems
    assert len([problem for problem in both if "has no entry" in problem or "stands neither" in problem]) == 2
    told = planned(SEVEN, "gpu", "tasks.text.adapter.dora=true").notes
    assert [note for note in told if "DoRA" in note] == [
        "tasks.text: memory is told for LoRA; DoRA and language_full take more than that"
    ]
    changed = {"shm": None, "memory": "64Gi", "timeout_s": 600}
    told = "\n".join(planned(SEVEN, profile(finetune=changed)).problems)
    assert "finetune-image: 8 processes read 110 GiB of weights into memory, steps.finetune.memory is 64Gi" in told
    assert "finetune-video: 8 GPUs without shm" in told
    assert "finetune-video takes 2." in told


def test_a_cpu_cluster_is_held_against_the_pods_memory():
    plan = planned("tests/golden/recipe.yaml", "cpu-cluster")
    assert plan.problems == []
    assert all(fit.room == 8 * GIB for fit in plan.fits)
    many = planned("tests/golden/recipe.yaml", "cpu-cluster", "train.batch_size=2048", "train.max_tokens=512")
    assert any("steps.finetune.memory gives it 8.0" in problem for problem in many.problems)


def test_tags_are_a_problem_until_a_digest_is_known(tmp_path, monkeypatch):
    problems = planned(SEVEN, "gpu", allow_tags=False).problems
    assert [problem.split()[1] for problem in problems] == [
        "localhost/latefuse-cpu:0.1.0",
        "localhost/latefuse-gpu:0.1.0",
    ]
    (tmp_path / "images.json").write_text(json.dumps({problem.split()[1]: DIGEST for problem in problems}))
    monkeypatch.setattr(images.resolved, "__defaults__", (tmp_path / "images.json",))
    plan = planned(SEVEN, "gpu", allow_tags=False)
    assert plan.problems == []
    assert "latefuse-gpu:0.1.0@abababab" in text(plan)


@pytest.mark.parametrize("recipe", ["demo", "notellm2", "llava_re", "mmrec", "vip5"])
def test_every_kind_of_recipe_can_be_planned_here(recipe):
    plan = planned(f"configs/recipes/{recipe}.yaml", "local")
    told = text(plan)
    assert "this one" in told
    assert sum(node.money[1] for node in plan.nodes) == 0


def test_every_number_says_how_it_is_known():
    plan = planned(SEVEN, "gpu")
    told = text(plan)
    for name in ("utilisation", "H100-80GB tflops", "clip_s", "text_tokens"):
        [line] = [line for line in told.splitlines() if line.strip().startswith(f"{name} ")]
        assert any(word in line for word in ("measured", "published", "assumed"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"core_hour": {"value": 1}}, "core_hour.known"),
        ({"core_hour": {"value": -1, "known": "assumed", "source": "none"}}, "core_hour.value"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_prices_without_a_source_are_refused(change, words, tmp_path):
    raw = yaml.safe_load(PRICES.read_text())
    (tmp_path / "prices.yaml").write_text(yaml.safe_dump({**raw, **change}))
    with pytest.raises(ConfigError, match=words):
        load_prices(tmp_path / "prices.yaml")
    with pytest.raises(ConfigError, match="no such file of prices"):
        load_prices(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("told", "number"), [("8Gi", 8 * 2**30), ("500m", 0.5), ("1.5G", 1.5e9), ("4", 4), ("64Ki", 65536), ("2k", 2000)]
)
def test_quantities(told, number):
    assert quantity(told) == number


def test_rows_at_a_time_follow_batch_processes_accumulation_and_tokens():
    shapes = shapes_of(json.loads(Path("configs/backbones.json").read_text())["LanguageBind/Video-LLaVA-7B-hf"])
    sets = ["train.accumulation=2", "tasks.video.train.batch_tokens=6000"]
    tasks = load(SEVEN, "gpu", sets).recipe.tasks
    image, wrong = load_of("image", tasks["image"], shapes, 8, world=8)
    assert (image.rows, image.tokens, image.media, image.learned, wrong) == (4, 1024, 256, 768, [])
    assert load_of("video", tasks["video"], shapes, 8, world=8)[0].rows == 2
    assert load_of("video", tasks["video"], shapes, 8, world=8)[0].encoded == 8 * 257


def test_the_command_ends_with_1_on_a_problem_and_0_without(capsys, monkeypatch):
    assert cli.main(["plan", SEVEN, "--profile", "gpu"]) == 1
    assert "2 problem(s)" in capsys.readouterr().out
    monkeypatch.setenv(asked.ALLOW_TAG, "1")
    assert cli.main(["plan", SEVEN, "--profile", "gpu"]) == 0
    out = capsys.readouterr().out
    assert "No problem found." in out
    assert "finetune-video" in out
    assert cli.main(["plan", SEVEN, "--profile", "gpu", "--host", "http://127.0.0.1:9"]) == 1
    assert "can't be reached" in capsys.readouterr().out


class Empty:
    """A cluster that has nothing, or can't be asked."""

    where = "nowhere"

    def __init__(self, namespace, context):
        self.namespace = namespace or "kitchen"
        if namespace == "shut":
            raise ClusterError("shut")

    def has(self, need):
        return need.kind == "namespace"


def test_a_cluster_is_asked_only_when_one_is_named(monkeypatch, tmp_path):
    wanted = planned(SEVEN, "gpu").needs
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert asked.missing_there(wanted, cluster=Empty) == ([], [])
    assert "no kubeconfig" in asked.missing_there(wanted, namespace="cooks", cluster=Empty)[0][0]
    assert "no kubeconfig" in asked.missing_there(wanted, context="loop", cluster=Empty)[0][0]
    (tmp_path / "config").write_text("{}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    told, unchecked = asked.missing_there(wanted, cluster=Empty)
    assert unchecked == []
    assert len(told) == len(wanted)
    assert "secret 'latefuse-hub' is not in nowhere (asked for by backbone)" in told
    assert asked.missing_there(wanted, namespace="shut", cluster=Empty) == (["shut"], [])


def test_fit_is_the_worst_task_of_a_mix():
    config = load(SEVEN, "gpu")
    shapes = shapes_of(json.loads(Path("configs/backbones.json").read_text())["LanguageBind/Video-LLaVA-7B-hf"])
    one = {job.name: fit(job, job.name, config, shapes, load_prices(PRICES)) for job in config.jobs()}
    assert one["mixed"].memory.saved == one["video"].memory.saved
    assert one["mixed-wide"].learns.numbers == 3 * one["mixed"].learns.numbers
