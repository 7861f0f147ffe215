"""`deepspeed: {stage: 2}` of a profile, and the files under configs/deepspeed that say the same."""

import json
from pathlib import Path

import pytest

from latefuse.config import Job
from latefuse.config_profile import Profile
from latefuse.config_zero import ZeroAsked, zero_file
from latefuse.configfile import load
from latefuse.sections import ConfigError

FILES = Path(__file__).parents[1] / "configs" / "deepspeed"


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", [False, True])
def test_a_file_says_what_two_words_of_a_profile_say(stage: int, offload: bool) -> None:
    stored = json.loads((FILES / f"zero{stage}{'-offload' if offload else ''}.json").read_text())
    assert zero_file(ZeroAsked(stage=stage, offload=offload)) == stored
    asked = Profile.model_validate({"name": "x", "deepspeed": {"stage": stage, "offload": offload}})
    assert asked.deepspeed == stored
    assert asked.deepspeed["zero_optimization"]["stage"] == stage
    assert ("offload_optimizer" in stored["zero_optimization"]) == offload


@pytest.mark.parametrize("said", [{"stage": 4}, {"offload": True}, {"stage": 2, "ofload": True}])
def test_words_that_mean_nothing_are_refused(said: dict) -> None:
    with pytest.raises(ValueError, match=r"stage|ofload"):
        Profile.model_validate({"name": "x", "deepspeed": said})


def test_what_deepspeed_can_t_do_is_refused_before_anything_runs(tmp_path: Path) -> None:
    profile = tmp_path / "spread.yaml"
    profile.write_text("{name: spread, launcher: torchrun, processes: 2, deepspeed: {stage: 3}}")
    embed = load("configs/recipes/notellm2.yaml", profile)
    assert {job.deepspeed["zero_optimization"]["stage"] for job in embed.jobs()} == {3}
    with pytest.raises(
        ConfigError, match=r"spread\.yaml: deepspeed, with task 'notellm2' of .*: embed\.chunk .* {stage: 2}"
    ):
        load("configs/recipes/notellm2.yaml", profile, ["tasks.notellm2.embed.chunk=8"])
    ranker = load("configs/recipes/mmrec.yaml", profile)
    assert {task.rank.sparse for job in ranker.jobs() for task in job.tasks.values()} == {False}
    with pytest.raises(ConfigError, match=r"spread\.yaml: .* leave rank\.sparse out, or say false"):
        load("configs/recipes/mmrec.yaml", profile, ["tasks.both.rank.sparse=true"])
    task = {"kind": "embed", "modality": ["text"], "embed": {"chunk": 4}}
    with pytest.raises(ValueError, match=r"take deepspeed: \{stage: 2\}"):
        Job.model_validate({"name": "x", "seed": 0, "tasks": {"x": task}, "deepspeed": zero_file(ZeroAsked(stage=3))})


def test_the_profiles_name_files_that_are_what_is_generated() -> None:
    for name in ("gpu", "multinode"):
        asked = load("configs/recipes/video_llava_7b.yaml", name).profile.deepspeed
        assert asked == zero_file(ZeroAsked(stage=2)), name
