"""Images by digest, from the file that building them writes."""

import json

import pytest

from latefuse.cluster.images import is_pinned, resolved, resolved_image
from latefuse.config_profile import Profile
from latefuse.sections import ConfigError

DIGEST = "sha256:" + "0123456789abcdef" * 4
PROFILE = Profile.model_validate(
    {
        "name": "far",
        "default": {"image": "registry/cpu:1"},
        "steps": {"finetune": {"image": "registry/gpu:1", "cpu": "2"}},
    }
)


def test_a_digest_is_taken_where_one_is_known(tmp_path):
    path = tmp_path / "images.json"
    path.write_text(json.dumps({"registry/gpu:1": DIGEST}))
    assert resolved_image(PROFILE, "finetune", path) == f"registry/gpu:1@{DIGEST}"
    assert resolved_image(PROFILE, "prepare", path) == "registry/cpu:1"
    made = resolved(PROFILE, path)
    assert made.resources("finetune").image == f"registry/gpu:1@{DIGEST}"
    assert made.resources("finetune").cpu == "2"
    assert made.default == PROFILE.default
    assert resolved(made, path) == made


def test_without_a_file_nothing_changes(tmp_path):
    assert resolved(PROFILE, tmp_path / "none.json") == PROFILE
    assert resolved_image(Profile(name="here"), "finetune", tmp_path / "none.json") is None


@pytest.mark.parametrize(("image", "pinned"), [(f"a/b:1@{DIGEST}", True), ("a/b:1", False), ("a/b@sha256:12", False)])
def test_pinned(image, pinned):
    assert is_pinned(image) is pinned


@pytest.mark.parametrize("text", ["[]", "{", '{"registry/gpu:1": "latest"}'])
def test_a_file_that_holds_no_digests_is_refused(text, tmp_path):
    (tmp_path / "images.json").write_text(text)
    with pytest.raises(ConfigError, match=r"images\.json.*make images"):
        resolved(PROFILE, tmp_path / "images.json")
