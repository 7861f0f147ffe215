"""The backbone step: demo, folder, hub; the same layout, refused when it is not safe, at once the second time."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from loopback_hub import COMMIT, hub
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from latefuse import tracking
from latefuse.config import BackboneConfig
from latefuse.errors import UserError
from latefuse.models import backbone as backbones
from latefuse.models import tiny
from latefuse.models.folder import SEAL, BackboneError, seal
from latefuse.models.tiny_random import byte_tokenizer
from latefuse.sections import ConfigError
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

    assert len({key(), key(frames=4), key(options={"seed": 1})}) == 3
    before = key()
    monkeypatch.setattr(backbone, "module_digest", lambda module: "another code")
    assert key() != before


BRIDGE = {"tokens": 3, "layers": 1, "hidden": 24, "heads": 2}


@pytest.fixture
def parts(tmp_path, backbone_folder, monkeypatch):
    """A folder with a tower, a language model and a sentence encoder of somebody's; `$PARTS` names it."""
    folder = tmp_path / "parts"
    for name, family in (("eyes", "llava"), ("tongue", "llama")):
        shutil.copytree(backbone_folder(family), folder / name)
        (folder / name / SEAL).unlink()
    torch.manual_seed(0)
    options = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = byte_tokenizer()
    BertModel(BertConfig(**options, vocab_size=len(tokenizer))).save_pretrained(folder / "words")
    tokenizer.save_pretrained(folder / "words")
    monkeypatch.setenv("PARTS", str(folder))
    return folder


def glued(**options):
    return {"tower": "$PARTS/eyes", "language": "$PARTS/tongue", "bridge": BRIDGE, **options}


def test_a_tower_and_a_language_model_are_glued(parts, tmp_path, capsys):
    result = run("glued", tmp_path / "out", options=glued(), frames=2)
    base = backbones.load(tmp_path / "out")
    assert base.digest == result["digest"] == backbones.digest(tmp_path / "out")
    assert (base.name, base.family.kind, base.frames) == ("eyes+tongue", "glued", 2)
    assert len(base.placeholder_ids("image")) == 3
    assert len(base.placeholder_ids("video")) == 6
    assert result["inputs"]["tower"] == {"name": "eyes", "revision": None}
    assert "eyes+tongue (latefuse_glued) made" in capsys.readouterr().out
    tongue, eyes = backbones.load(seal_again(parts / "tongue")), backbones.load(seal_again(parts / "eyes"))
    language, tower = tongue.model.model.state_dict(), eyes.inner.vision_tower.state_dict()
    assert all(torch.equal(tensor, language[name]) for name, tensor in base.inner.language_model.state_dict().items())
    assert all(torch.equal(tensor, tower[name]) for name, tensor in base.inner.vision_tower.state_dict().items())
    assert run("glued", tmp_path / "again", options=glued(), frames=2)["digest"] == result["digest"]
    assert run("glued", tmp_path / "other", options=glued(seed=1), frames=2)["digest"] != result["digest"]


def seal_again(folder):
    seal(folder, name=folder.name, frames=2)
    return folder


def test_a_tower_and_a_sentence_encoder_side_by_side(parts, tmp_path):
    options = {"tower": "$PARTS/eyes", "text": str(parts / "words"), "side": 32}
    result = run("light", tmp_path / "out", options=options)
    base = backbones.load(tmp_path / "out")
    assert (base.name, base.family.kind, base.text_width, base.side) == ("eyes+words", "light", 24, 32)
    assert result["family"] == "latefuse_light"
    assert base.encode_text(["x"]).shape == (1, 24)


def test_marks_of_the_language_model_are_kept(parts, tmp_path):
    seal(parts / "tongue", name="marked", frames=2, frame_marks=["1", "2"])
    run("glued", tmp_path / "out", options=glued(), frames=2)
    assert len(backbones.load(tmp_path / "out").frame_marks) == 2
    run("glued", tmp_path / "out", options=glued(frame_marks=["a", "b", "c"]), frames=3)
    assert len(backbones.load(tmp_path / "out").frame_marks) == 3
    (parts / "tongue/tokenizer_config.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"files that have changed: tokenizer_config\.json"):
        run("glued", tmp_path / "out", options=glued(), frames=2)


def test_a_composed_backbone_is_made_once(parts, tmp_path):
    def made(**options):
        return run("glued", tmp_path / "out", tmp_path / "cache", options=glued(**options))

    first = made()
    assert not first["from_cache"]
    assert made()["from_cache"]
    assert made(tower=str(parts / "eyes"))["digest"] == first["digest"], "the content counts, not the path"
    assert not made(seed=1)["from_cache"]
    config = json.loads((parts / "eyes/preprocessor_config.json").read_text())
    (parts / "eyes/preprocessor_config.json").write_text(json.dumps({**config, "image_mean": [0.1, 0.1, 0.1]}))
    changed = made()
    assert not changed["from_cache"]
    assert changed["digest"] != first["digest"]
    with pytest.raises(BackboneError, match="not the backbone that was pinned"):
        made(expect=first["digest"])
    assert made(expect=changed["digest"])["digest"] == changed["digest"]


def test_the_demo_base_lends_its_parts_and_is_built_once_for_all(parts, tmp_path, monkeypatch, backbone_folder):
    built = []

    def quick(options, out, on_log):
        built.append(options["steps"])
        for file in backbone_folder("video_llava").iterdir():
            if file.name != SEAL:
                shutil.copyfile(file, out / file.name)

    monkeypatch.setattr(tiny, "build", quick)
    cache = tmp_path / "cache"
    run("glued", tmp_path / "one", cache, options={"bridge": BRIDGE, "demo": SHORT})
    run("light", tmp_path / "two", cache, options={"text": "$PARTS/words", "demo": SHORT})
    run("demo", tmp_path / "three", cache, options=SHORT)
    assert built == [1]
    assert backbones.load(tmp_path / "one").name == "demo+demo"
    assert len(backbones.load(tmp_path / "one").frame_marks) == 8
    run("glued", tmp_path / "four", cache, options={"bridge": BRIDGE, "demo": {**SHORT, "steps": 2}})
    run("glued", tmp_path / "five", options={"bridge": BRIDGE, "demo": SHORT})
    assert built == [1, 2, 1], "without a cache it is built for this backbone alone"
    assert backbones.load(tmp_path / "five").digest == backbones.load(tmp_path / "one").digest
    with pytest.raises(ConfigError, match=r"stepz: unknown key; did you mean 'steps'\?"):
        run("glued", tmp_path / "six", options={"demo": {"stepz": 1}})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("glued", {"towr": "x"}, r"backbone\.options: 1 problem.*towr: unknown key; did you mean 'tower'\?"),
        ("glued", {"bridge": {"knd": "mlp"}}, r"bridge\.knd: unknown key; did you mean 'kind'\?"),
        ("glued", {"bridge": {"kind": "mpl"}}, r"bridge\.kind: Input should be 'mlp' or 'qformer'"),
        ("light", {}, "text: Field required"),
        ("glued", {"tower": "./nowhere"}, r"backbone\.options\.tower './nowhere': no such folder"),
        ("glued", {"language": "$UNSET/x"}, r"backbone\.options\.language: .* the environment variable UNSET"),
        ("light", {"text": "pip:no_such_thing"}, r"no package 'no_such_thing' here; install it \(`pip install no-such"),
        ("light", {"text": "pip:json"}, r"no folder `model` in the package 'json'"),
    ],
)
def test_options_that_make_no_backbone_are_told(name, options, message, parts, tmp_path):
    with pytest.raises(UserError, match=rf"(?s){message}"):
        run(name, tmp_path / "out", tmp_path / "cache", options={"tower": "$PARTS/eyes", **options})
    assert not (tmp_path / "out/result.json").exists()


def test_a_model_in_an_installed_package_is_found_without_importing_it(parts, tmp_path, monkeypatch):
    package = tmp_path / "site/some_encoder"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    shutil.copytree(parts / "words", package / "model")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    run("light", tmp_path / "out", options={"tower": "$PARTS/eyes", "text": "pip:some_encoder"})
    assert backbones.load(tmp_path / "out").name == "eyes+some_encoder"
    assert "some_encoder" not in sys.modules


def test_a_part_of_a_hub_is_pinned(parts, tmp_path, online, capsys):
    with hub("owner/eyes", parts / "eyes") as (address, asked):
        online(address)
        first = run("glued", tmp_path / "one", tmp_path / "cache", options=glued(tower="owner/eyes"))
        assert first["inputs"]["tower"] == {"name": "owner/eyes", "revision": COMMIT}
        assert f"backbone.options.tower_revision={COMMIT}" in capsys.readouterr().out
        pinned = glued(tower="owner/eyes", tower_revision=COMMIT)
        second = run("glued", tmp_path / "two", tmp_path / "cache", options=pinned)
        assert (second["digest"], second["from_cache"]) == (first["digest"], False)
        before = len(asked)
        third = run("glued", tmp_path / "three", tmp_path / "cache", options=pinned)
        assert (third["from_cache"], len(asked)) == (True, before)
        assert "tower_revision" not in capsys.readouterr().out
    (parts / "eyes/model.safetensors").rename(parts / "eyes/pytorch_model.bin")
    with hub("owner/blind", parts / "eyes") as (address, _):
        online(address)
        with pytest.raises(BackboneError, match=r"backbone\.options\.tower: .*never read"):
            run("glued", tmp_path / "four", options=glued(tower="owner/blind"))


def test_a_t5_beside_a_tower(parts, tmp_path, backbone_folder):
    def options(**more):
        return {"tower": "$PARTS/eyes", "language": str(backbone_folder("t5")), **more}

    result = run("encoder-decoder", tmp_path / "out", tmp_path / "cache", options=options())
    base = backbones.load(tmp_path / "out")
    assert (base.name, base.family.kind) == (f"eyes+{backbone_folder('t5').name}", "encoder-decoder")
    assert result["family"] == "latefuse_sighted"
    assert run("encoder-decoder", tmp_path / "out", tmp_path / "cache", options=options())["from_cache"]
    drawn = [run("encoder-decoder", tmp_path / "out", options=options(random=True, seed=seed)) for seed in (1, 1, 2)]
    assert [one["digest"] == drawn[0]["digest"] for one in drawn] == [True, True, False]
    assert drawn[0]["digest"] != result["digest"]
    assert drawn[0]["name"].endswith(" random")
    with pytest.raises(ConfigError, match="language: Field required"):
        run("encoder-decoder", tmp_path / "out", options={"tower": "$PARTS/eyes"})
    with pytest.raises(BackboneError, match="choose a T5"):
        run("encoder-decoder", tmp_path / "out", options=options(language="$PARTS/tongue"))


def test_a_plain_t5_is_a_backbone_that_reads_words(tmp_path, backbone_folder):
    run(backbone_folder("t5"), tmp_path / "out")
    assert backbones.load(tmp_path / "out").modalities == ("text",)


def test_the_demo_t5_stands_beside_the_tower_of_the_demo_base(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "module_digest", lambda module: "this code")
    quick = {"demo": SHORT, "t5": {"steps": 1, "batch": 2, "hidden": 32, "layers": 1}}

    def made(**more):
        return run("demo-t5", tmp_path / "out", tmp_path / "cache", options={**quick, **more})

    first = made()
    base = backbones.load(tmp_path / "out")
    assert (base.name, base.width, base.family.kind) == ("demo+demo-t5-text", 32, "encoder-decoder")
    kept = {path.name for path in (tmp_path / "cache/backbones").iterdir()}
    demo = run("demo", tmp_path / "demo", tmp_path / "cache", options=SHORT)
    assert demo["from_cache"]
    tower = backbones.load(tmp_path / "demo").inner.image_tower.state_dict()
    assert all(torch.equal(tensor, tower[name]) for name, tensor in base.inner["vision_tower"].state_dict().items())
    assert made()["from_cache"]
    assert not made(random=True)["from_cache"]
    assert made(random=True)["digest"] != first["digest"]
    added = {path.name for path in (tmp_path / "cache/backbones").iterdir()} - kept
    assert len(kept) == 3
    assert len(added) == 2, "the T5 that has read nothing, and both together: the tower is there already"
    with pytest.raises(ConfigError, match="language"):
        made(language="google-t5/t5-small")
    with pytest.raises(ConfigError, match="options of the demo T5"):
        made(t5={"step": 1})
