"""The configuration: overrides, profiles, nearest names, digests, the list of jobs."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from latefuse.config import CONTROLS, Config, Kind, Recipe, Task
from latefuse.config_data import Data
from latefuse.config_profile import Profile, Resources
from latefuse.configfile import load
from latefuse.sections import ConfigError
from latefuse.tasks import KINDS

RECIPE = """\
name: x
data: {source: demo}
adapter: {r: 4}
train: {max_steps: 5}
tasks:
  image: {modality: image, train: {max_steps: 9}}
  text: {modality: text}
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "profile.yaml").write_text("name: p\n")
    return tmp_path


def read(files, *sets, profile="name: p\n", recipe=RECIPE) -> Config:
    (files / "recipe.yaml").write_text(recipe)
    (files / "profile.yaml").write_text(profile)
    return load(files / "recipe.yaml", files / "profile.yaml", sets)


def steps(config):
    return {name: task.train.max_steps for name, task in config.recipe.tasks.items()}


def test_defaults_reach_every_task_and_a_task_may_differ(files):
    config = read(files)
    assert steps(config) == {"image": 9, "text": 5}
    assert {task.adapter.r for task in config.recipe.tasks.values()} == {4}


def test_who_wins(files):
    """--set over profile over task over recipe."""
    assert steps(read(files, "train.max_steps=7")) == {"image": 7, "text": 7}
    assert steps(read(files, "tasks.text.train.max_steps=7")) == {"image": 9, "text": 7}
    assert steps(read(files, "train.max_steps=3", "tasks.image.train.max_steps=8")) == {"image": 8, "text": 3}
    profile = "name: p\nrecipe: {tasks: {text: {train: {max_steps: 20}}}, seeds: [0, 1]}\n"
    assert steps(read(files, profile=profile)) == {"image": 9, "text": 20}
    assert read(files, profile=profile).recipe.seeds == (0, 1)
    assert steps(read(files, "train.max_steps=7", profile=profile)) == {"image": 7, "text": 7}
    assert steps(read(files, profile="name: p\nrecipe: {train: {max_steps: 30}}\n")) == {"image": 30, "text": 30}


def test_a_profile_may_lengthen_every_task(files):
    assert steps(read(files, profile="name: p\nlengthen: 3\n")) == {"image": 27, "text": 15}
    assert steps(read(files, profile="name: p\nlengthen: 0.01\n")) == {"image": 1, "text": 1}
    assert steps(read(files, "train.max_steps=7", profile="name: p\nlengthen: 3\n")) == {"image": 7, "text": 7}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (RECIPE.replace("source", "sorce"), "did you mean 'source'"),
        (RECIPE.replace("{r: 4}", "{rank: 4}"), "rank"),
        (RECIPE.replace("max_steps: 9", "max_step: 9"), "did you mean 'max_steps'"),
        (RECIPE.replace("modality: text", "modality: sound"), "tasks.text.modality"),
        (RECIPE.replace("name: x", "name: Not A Name"), "name"),
        (RECIPE + "seeds: [1, 1]\n", "distinct"),
        ("- a list\n", "mapping at the top"),
        ("name: [\n", "not valid YAML"),
        ("name: x\ndata: {source: demo}\ntasks: {}\n", "tasks"),
    ],
)
def test_what_is_wrong_is_named(files, recipe, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")) as caught:
        read(files, recipe=recipe)
    assert "recipe.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("nonsense", "key.path=value"),
        ("=3", "key.path=value"),
        ("name.x=3", "is a value"),
        ("trian.max_steps=3", "train"),
    ],
)
def test_wrong_overrides_are_named(files, override, words):
    with pytest.raises(ConfigError, match=words):
        read(files, override)


@pytest.mark.parametrize(
    "override",
    [
        "fusion.grid=[]", "fusion.grid=[0, 0.0]", "fusion.grid=[.nan, 1]", "fusion.search_rows=0",
        "fusion.candidates=0", "fusion.density=0", "fusion.density=1.1", "fusion.rank=-3", "fusion.rank=0",
        "fusion.tolerance=0", "fusion.tolerance=10", "fusion.tolerance=1.1e-4", "fusion.tolerance=.nan",
        "fusion.late.steps=0", "fusion.late.max_rows=0",
        "evaluation.max_rows=0", "evaluation.side_rows=0", "evaluation.batch_size=0", "evaluation.max_new_tokens=0",
        "evaluation.bootstrap=0", "evaluation.min_interval_rows=0", "evaluation.examples=-1",
        "evaluation.confidence=0", "evaluation.confidence=1", "evaluation.confidence=95",
        "tasks.image.train.lr=.inf", "tasks.image.train.weight_decay=-1", "tasks.image.train.max_grad_norm=0",
        "tasks.image.adapter.alpha=0", "tasks.image.adapter.dropout=1", "data.limits.max_pixels=0",
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_anything_runs(files, override):
    with pytest.raises(ConfigError) as caught:
        read(files, override)
    assert f"  {override.partition('=')[0]}" in str(caught.value)
    assert "1 problem" in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "fusion.methods=[]", "fusion.grid=[0, 0.5]", "fusion.grid=[-1]", "fusion.density=1", "fusion.rank=1",
        "fusion.rank=null", "fusion.tolerance=1e-4", "fusion.tolerance=1.0e-6", "evaluation.max_rows=null",
        "evaluation.side_rows=null",
        "evaluation.examples=0", "evaluation.confidence=0.5", "evaluation.max_rows=1", "fusion.search_rows=1",
    ],
)  # fmt: skip
def test_the_bounds_themselves_are_allowed(files, override):
    assert read(files, override).recipe


def test_a_kind_without_a_task_is_refused_without_loading_any(files):
    (files / "recipe.yaml").write_text(RECIPE.replace("{modality: text}", "{modality: text, kind: judgement}"))
    code = (
        "import sys; from latefuse import cli; status = cli.main(sys.argv[1:]);"
        "print(status, [name for name in ('torch', 'transformers', 'mlflow', 'kfp') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "config", str(files / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 []"
    for words in ("recipe.yaml", "tasks.text.kind", "'instruct'", "'embed'"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_kinds_are_those_of_the_registry():
    assert set(get_args(Kind)) == set(KINDS)


def test_a_profile_by_a_wrong_name(files):
    with pytest.raises(ConfigError, match="did you mean 'local'"):
        load(files / "recipe.yaml", "lokal")


def test_jobs_are_each_task_alone_and_the_two_controls_per_seed(files):
    jobs = read(files, "seeds=[0,3]").jobs()
    assert [(job.name, job.seed) for job in jobs] == [
        (name, seed) for seed in (0, 3) for name in ("image", "text", "mixed", "mixed-wide")
    ]
    wide = next(job for job in jobs if job.name == "mixed-wide")
    assert {task.adapter.r for task in wide.tasks.values()} == {8}
    assert {task.adapter.alpha / task.adapter.r for task in wide.tasks.values()} == {32 / 4}
    assert [job.name for job in jobs if job.mixed] == [*CONTROLS, *CONTROLS]


def test_one_task_alone_has_no_mixed_control(files):
    config = read(files, recipe="name: x\ndata: {source: demo}\ntasks: {image: {modality: image}}\n")
    assert [job.name for job in config.jobs()] == ["image"]


def test_a_kind_that_is_no_word_is_told():
    with pytest.raises(ValidationError, match="kind"):
        Task.model_validate({"kind": ["judge"], "modality": "image"})


def test_known_targets_need_held_out_items():
    raw = {
        "name": "x",
        "data": {"source": "demo", "splits": {"scheme": "pair"}},
        "tasks": {"a": {"kind": "embed", "modality": ["text"]}},
        "evaluation": {"retrieval": {"targets": "known"}},
    }
    with pytest.raises(ValidationError, match=r"data\.splits\.scheme=item"):
        Recipe.model_validate(raw)
    raw["data"]["splits"]["scheme"] = "item"
    assert Recipe.model_validate(raw).evaluation.retrieval.targets == "known"


def test_digests_follow_content_not_spelling(files):
    config = read(files)
    assert config.digest == read(files, "seeds=[0]").digest
    assert config.digest != read(files, "seeds=[1]").digest
    assert Data(source="demo").digest == Data(source="demo", quarantine_budget=0.02).digest
    assert len(config.digest) == 16


def test_sections_are_frozen(files):
    with pytest.raises(ValidationError):
        read(files).recipe.name = "y"


def test_a_step_of_a_profile_inherits_what_it_does_not_say():
    profile = Profile(
        name="p", default=Resources(image="i:1", memory="4Gi", retries=1), steps={"finetune": Resources(memory="8Gi")}
    )
    assert profile.resources("finetune") == Resources(image="i:1", memory="8Gi", retries=1)
    assert profile.resources("prepare") == profile.default


@pytest.mark.parametrize("path", sorted(Path("configs/recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_how_it_is_run(path):
    assert load(path).jobs()
    first = path.read_text().splitlines()[0]
    assert first.startswith("#")
    assert "make local-run" in first or "latefuse" in first


@pytest.mark.parametrize("path", sorted(Path("configs/profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_valid_and_says_how_it_is_used(path):
    assert load("tests/golden/recipe.yaml", path.stem).profile.name == path.stem
    assert path.read_text().startswith("# make ")
