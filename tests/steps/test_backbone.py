"""The backbone step: demo, folder, hub; the same layout, refused when it is not safe, at once the second time."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from loopback_hub import COMMIT, hub
from safetensors.torch import load_file, save_file

from latefuse import tracking
from latefuse.config import BackboneConfig
from latefuse.models import backbone as backbones
from latefuse.models.folder import SEAL, BackboneError, seal
from latefuse.steps import backbone

SHORT = {"steps": 1, "tower_steps": 1, "looks": 4, "pictures": 2, "clips": 1, "hidden": 32, "layers": 1}


class Notes(tracking.Null):
    """Keeps what it is told."""

    def __init__(self):
        self.told, self.files = [], []

    def metrics(self, values, step=None):
        self.told.append((dict(values), step))

    def artifact(self, path, folder=None):
        self.files.append(Path(path).name)


@pytest.fixture
def source(tmp_path, backbone_folder):
    """A user's own folder: a model that was never sealed, with a read-me beside it."""
    folder = tmp_path / "my-model"
    shutil.copytree(backbone_folder("video_llava"), folder)
    (folder / SEAL).unlink()
    (folder / "README.md").write_text("mine")
    return folder


def run(name, out, cache=None, tracker=None, **options):
    return backbone.run(BackboneConfig(name=str(name), **options), out, tracker or tracking.Null(), cache)


def test_a_folder_is_sealed_and_loads(source, tmp_path, capsys):
    notes = Notes()
    result = run(source, tmp_path / "out", frames=2, tracker=notes)
    base = backbones.load(tmp_path / "out")
    assert base.digest == result["digest"] == backbones.digest(source)
    assert (base.frames, base.name, base.revision) == (2, "my-model", None)
    assert json.loads((tmp_path / "out/result.json").read_text()) == result
    assert {"step", "wall_s", "peak_rss_gib", "inputs", "run_id"} <= result.keys()
    assert SEAL in notes.files
    assert not (tmp_path / "out/README.md").exists()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert result["digest"][:12] in printed


def test_what_an_earlier_run_left_is_not_sealed_again(source, tmp_path, backbone_folder):
    first = run(source, tmp_path / "out")
    second = run(backbone_folder("llava"), tmp_path / "out", frames=1)
    assert second["family"] == "llava"
    assert second["digest"] == backbones.load(tmp_path / "out").digest != first["digest"]


def test_a_sealed_folder_keeps_its_marks_and_must_be_intact(source, tmp_path):
    seal(source, name="marked", frames=2, frame_marks=["1", "2"])
    result = run(source, tmp_path / "out", frames=2)
    assert result["name"] == "marked"
    assert len(backbones.load(tmp_path / "out").frame_marks) == 2
    (source / "tokenizer_config.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"files that have changed: tokenizer_config\.json"):
        run(source, tmp_path / "out", frames=2)


def test_options_of_a_named_backbone(source, tmp_path, backbone_folder):
    run(source, tmp_path / "out", frames=2, options={"frame_marks": ["a", "b"]})
    assert len(backbones.load(tmp_path / "out").frame_marks) == 2
    run(backbone_folder("qwen2_5_vl"), tmp_path / "qwen", options={"side": 96})
    assert backbones.load(tmp_path / "qwen").side == 96
    digest = backbones.digest(source)
    run(source, tmp_path / "out", options={"expect": digest})
    with pytest.raises(BackboneError, match="not the backbone that was pinned"):
        run(source, tmp_path / "out", options={"expect": "0" * 64})
    with pytest.raises(BackboneError, match=r"backbone\.options\.sides: .*known: expect, frame_marks, side"):
        run(source, tmp_path / "out", options={"sides": 96})


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("multi_modal_projector.linear_1.bias")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(**values):
    def edit(folder):
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**raw, **values}))

    return edit


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "never unpickled"),
        (edit_config(auto_map={"AutoModel": "evil.Model"}), "trust_remote_code stays off"),
        (edit_config(model_type="gpt2"), "no family 'gpt2'"),
        (drop_tensor, r"missing: model\.multi_modal_projector\.linear_1\.bias"),
        (shutil.rmtree, "no such folder, and not a hub name"),
    ],
)
def test_what_can_not_be_loaded_is_refused(source, tmp_path, harm, message):
    harm(source)
    with pytest.raises(BackboneError, match=message):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out/result.json").exists()


def test_pickles_beside_safetensors_stay_behind(source, tmp_path):
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    run(source, tmp_path / "out")
    assert not (tmp_path / "out/pytorch_model.bin").exists()


@pytest.fixture
def online(tmp_path, monkeypatch):
    """An own hub cache, and a way to point the client at an address; nobody answers until then."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def point(address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    point("http://127.0.0.1:9")
    return point


def test_a_hub_name_is_pinned_to_its_commit_and_fetched_once(source, tmp_path, online, capsys):
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    with hub("owner/model", source) as (address, asked):
        online(address)
        result = run("owner/model", tmp_path / "one", tmp_path / "cache", revision="main")
        assert result["revision"] == COMMIT
        assert result["digest"] == backbones.digest(source)
        assert not [path for path in asked if path.endswith((".bin", ".md"))]
        assert backbones.load(tmp_path / "one").name == "owner/model"
        before = len(asked)
        again = run("owner/model", tmp_path / "two", tmp_path / "cache", revision="main")
        assert (again["from_cache"], len(asked)) == (True, before)
        run("owner/model", tmp_path / "three", tmp_path / "cache")
        assert f"backbone.revision={COMMIT}" in capsys.readouterr().out
    online("http://127.0.0.1:9")
    offline = run("owner/model", tmp_path / "four", tmp_path / "cache", revision=COMMIT)
    assert offline["digest"] == result["digest"]


def test_a_hub_repository_with_code_is_refused_before_its_weights_are_fetched(source, tmp_path, online):
    edit_config(auto_map={"AutoModel": "evil.Model"})(source)
    with hub("owner/model", source) as (address, asked):
        online(address)
        with pytest.raises(BackboneError, match="trust_remote_code stays off"):
            run("owner/model", tmp_path / "out")
    assert not [path for path in asked if path.endswith(".safetensors")]


def test_hub_errors_teach(source, tmp_path, online):
    with pytest.raises(BackboneError, match=r"can't be fetched .*`hf download owner/model`.*HF_ENDPOINT"):
        run("owner/model", tmp_path / "out")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with hub("owner/model", source) as (address, _):
        online(address)
        with pytest.raises(BackboneError, match="no revision 'v9'"):
            run("owner/model", tmp_path / "out", revision="v9")
        with pytest.raises(BackboneError, match="'owner/other' is not on the hub"):
            run("owner/other", tmp_path / "out")
        with pytest.raises(BackboneError, match=r"has no \*\.safetensors; pickled weights are never read"):
            run("owner/model", tmp_path / "out")


def test_the_demo_base_is_built_once(tmp_path, monkeypatch):
    notes = Notes()
    monkeypatch.setattr(backbone, "module_digest", lambda module: "this code")
    first = run("demo", tmp_path / "one", tmp_path / "cache", options=SHORT, tracker=notes)
    assert not first["from_cache"]
    base = backbones.load(tmp_path / "one")
    assert base.frames == len(base.frame_marks) == 8
    second = run("demo", tmp_path / "two", tmp_path / "cache", options=SHORT)
    assert second["from_cache"]
    assert second["digest"] == first["digest"] == backbones.load(tmp_path / "two").digest
    kept = next((tmp_path / "cache/backbones").iterdir())
    (kept / "config.json").unlink()
    third = run("demo", tmp_path / "three", tmp_path / "cache", options=SHORT)
    assert (third["from_cache"], third["digest"]) == (False, first["digest"])
    assert [path.name for path in (tmp_path / "cache/backbones").iterdir()] == [kept.name]


def test_the_key_of_the_demo_base_follows_options_frames_and_code(monkeypatch):
    def key(**options):
        return backbone._key(BackboneConfig(**options))

    assert key() == key(dtype="bfloat16")
    assert len({key(), key(frames=4), key(options={"seed": 1})}) == 3
    before = key()
    monkeypatch.setattr(backbone, "module_digest", lambda module: "another code")
    assert key() != before
