"""A profile whose TrainJob could not work is refused before anything is compiled."""

import pytest

from latefuse.cluster.train_job_where import check, mount, of_environment, where
from latefuse.config_profile import Profile
from latefuse.sections import ConfigError

HOME = {"volumes": {"/workspace": "claim"}, "env": {"LATEFUSE_HOME": "/workspace/latefuse"}}


def profile(finetune=None, driver=None, **trainjob):
    return Profile.model_validate(
        {
            "name": "far", "launcher": "trainjob", "nodes": 2, "default": {"image": "i:1", **HOME},
            "steps": {"finetune": {"timeout_s": 100, **(finetune or {})}}, "driver": driver or {},
            "trainjob": {"queue_s": 10, "pending_s": 5, **trainjob},
        }
    )  # fmt: skip


def test_one_that_works_travels_whole(monkeypatch):
    made = profile(driver={"timeout_s": 115})
    check(made)
    monkeypatch.setenv("LATEFUSE_TRAINJOB", where(made).model_dump_json(exclude_unset=True))
    assert of_environment() == where(made)
    assert where(made).resources.timeout_s == 100


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"finetune": {"timeout_s": None}}, r"steps\.finetune\.timeout_s: say how long"),
        ({"finetune": {"image": None}}, r"steps\.finetune\.image"),
        ({"driver": {"timeout_s": 114}}, r"driver\.timeout_s: it must outlast .*: 115 or more"),
        (
            {"finetune": {"retries": 3, "backoff_s": 1}},
            r"finetune\.backoff_s: the driver .*finetune\.retries: the driver",
        ),
        ({"driver": {"env": {"LATEFUSE_HOME": "/tmp"}}}, r"driver\.env\.LATEFUSE_HOME: it must lie on one of"),
        ({"driver": {"volumes": {"/workspace": "other"}}}, "LATEFUSE_HOME lies on another claim"),
    ],
)
def test_what_can_not_work_is_named(asked, words):
    with pytest.raises(ConfigError, match=words):
        check(profile(**asked))


def test_the_longest_mount_counts():
    volumes = {"/a": "one", "/a/b": "two"}
    assert mount("/a/b/c", volumes) == "/a/b"
    assert mount("/a/bc", volumes) == "/a"
    assert mount("/ab", volumes) == mount("", volumes) == ""
