"""Adapters on every family: what trains, what stays, what is written, what is refused."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from latefuse.config import AdapterConfig
from latefuse.models import adapters
from latefuse.models.adapters import AdapterCard, AdapterError
from latefuse.models.backbone import load as load_backbone
from latefuse.models.families import FAMILIES
from latefuse.models.tiny_random import CONFIGS, IDS

CASES = [(family, modality) for family in CONFIGS for modality in FAMILIES[family].modalities]
EVERYWHERE = AdapterConfig(r=4, alpha=8, on=("language", "bridge", "tower"))


def card(base, modality="image", **more):
    fixed = {"arm": "t", "seed": 0, "config_digest": "c", "data_fingerprint": "d"}
    return AdapterCard(task="t", modality=modality, backbone_digest=base.digest, **fixed, **more)


def loss_of(base, ids, mask, batch):
    logits = base.logits(base.hidden(ids, mask, batch))[:, :-1]
    targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    for token in ("<image>", "<video>"):
        targets = targets.masked_fill(targets == IDS[token], -100)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train(base, ids, mask, batch, steps=4, lr=1e-2):
    """Losses of a few steps of AdamW, and the gradient norms of the first."""
    optimiser = torch.optim.AdamW([p for p in base.model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    losses, first = [], {}
    for _ in range(steps):
        loss = loss_of(base, ids, mask, batch)
        loss.backward()
        first = first or adapters.gradient_norms(base)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses, first


@pytest.fixture
def scene(fresh, prompt, media):
    def make(family="video_llava", modality="image"):
        base = fresh(family)
        return base, (*prompt(base, modality, ["a dish of rice", "soup"]), media(base, modality, 2))

    return make


@pytest.mark.parametrize(("family", "modality"), CASES)
def test_trains_what_it_should_and_comes_back_equal(family, modality, scene, fresh, tmp_path):
    base, rows = scene(family, modality)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    frozen = adapters.module_digest(base.model)
    peft = adapters.attach(base, EVERYWHERE, modality, seed=1)
    losses, first = train(base, *rows)

    assert losses[-1] < losses[0] - 0.05
    groups = {"language"} if modality == "text" else {"language", "bridge", f"tower.{modality}"}
    if FAMILIES[family].tower.get("image") == FAMILIES[family].tower.get("video"):
        first = {part.replace("tower.video", f"tower.{modality}").replace("tower.image", f"tower.{modality}"): norm
                 for part, norm in first.items()}  # fmt: skip
    assert set(first) == groups
    assert all(norm > 0 for norm in first.values())
    assert adapters.module_digest(base.model) == frozen
    after = {name.replace(".base_layer.", "."): t for name, t in base.model.state_dict().items() if "lora_" not in name}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)

    written = adapters.save(peft, tmp_path, card(base, modality))
    assert set(written.target_modules) == set(adapters.target_modules(base, EVERYWHERE, modality))
    other = fresh(family)
    adapters.load(other, tmp_path, "again")
    assert not any(p.requires_grad for p in other.model.parameters())
    with torch.no_grad():
        ours, theirs, bare = (b.logits(b.hidden(*rows)) for b in (base, other, fresh(family)))
        plain = fresh(family)
        plain.model = PeftModel.from_pretrained(plain.model, tmp_path).eval().get_base_model()
        in_plain_peft = plain.logits(plain.hidden(*rows))
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, in_plain_peft)
    assert (ours - bare).abs().max() > 1e-2


@pytest.mark.parametrize(
    "options",
    [{"bridge_full": True}, {"dora": True}, {"rslora": True}, {"dora": True, "rslora": True, "bridge_full": True}],
)
def test_options_come_back_equal_in_plain_peft(options, scene, fresh, tmp_path):
    base, rows = scene()
    frozen = adapters.module_digest(base.model)
    peft = adapters.attach(base, AdapterConfig(r=4, alpha=8, **options), "image", seed=0)
    losses, first = train(base, *rows)
    assert losses[-1] < losses[0]
    assert all(norm > 0 for norm in first.values())
    assert set(first) == {"language", "bridge"}
    assert adapters.module_digest(base.model) == frozen
    written = adapters.save(peft, tmp_path, card(base))
    assert written.modules_to_save == (("model.multi_modal_projector",) if options.get("bridge_full") else ())
    other, plain = fresh(), fresh()
    adapters.load(other, tmp_path)
    plain_peft = PeftModel.from_pretrained(plain.model, tmp_path).eval()
    with torch.no_grad():
        ours = base.logits(base.hidden(*rows))
        assert torch.equal(ours, other.logits(other.hidden(*rows)))
        own = plain_peft(input_ids=rows[0], attention_mask=rows[1], pixel_values=rows[2].image).logits
    seen = rows[1].bool()
    torch.testing.assert_close(ours[seen], own[seen], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_change_is_alpha_over_r_times_b_a(rslora, scene, fresh, tmp_path):
    """Against the definition: W + scale * B A, written into a bare model by hand."""
    base, rows = scene()
    peft = adapters.attach(base, AdapterConfig(r=4, alpha=6, rslora=rslora), "image", seed=0)
    train(base, *rows)
    adapters.save(peft, tmp_path, card(base))
    state, dense = load_file(tmp_path / "adapter_model.safetensors"), fresh()
    scale = 6 / 2 if rslora else 6 / 4
    for name in adapters.read_card(tmp_path).target_modules:
        a, b = (state[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
        dense.model.get_submodule(name).weight.data += scale * b @ a
    with torch.no_grad():
        torch.testing.assert_close(base.hidden(*rows), dense.hidden(*rows), rtol=1e-4, atol=1e-5)


def test_roles_resolve_to_full_names(fresh):
    base = fresh()
    parts = base.parts()

    def names(on, modality, **more):
        return adapters.target_modules(base, AdapterConfig(on=on, **more), modality)

    assert names(("language", "bridge"), "image") == parts["language"] + parts["bridge"]
    assert names(("language", "bridge", "tower"), "text") == parts["language"]
    assert names(("tower",), "video") == parts["tower.video"]
    assert names(("tower",), ["image", "video", "text"]) == parts["tower.image"] + parts["tower.video"]
    assert names(("language", "bridge"), "image", bridge_full=True) == parts["language"]
    assert names(("tower",), ["image", "video"]) != names(("tower",), "image")
    one_tower = fresh("llava_onevision")
    both = adapters.target_modules(one_tower, AdapterConfig(on=("tower",)), ["image", "video"])
    assert both == one_tower.parts()["tower.image"]
    with pytest.raises(AdapterError, match="add 'language'"):
        names(("bridge", "tower"), "text")
    with pytest.raises(AdapterError, match="reads image, text, not \\['video'\\]"):
        adapters.target_modules(fresh("llava"), AdapterConfig(), "video")


def test_the_first_weights_come_from_the_seed_alone(fresh):
    def first_weights(seed):
        base = fresh()
        torch.manual_seed(seed * 7 + 1)
        torch.rand(seed + 3)
        state = torch.random.get_rng_state()
        adapters.attach(base, AdapterConfig(r=4), "image", seed=5 if seed < 2 else 6)
        assert torch.equal(state, torch.random.get_rng_state())
        return torch.cat([p.flatten() for n, p in base.model.named_parameters() if "lora_A" in n])

    assert torch.equal(first_weights(0), first_weights(1))
    assert not torch.equal(first_weights(0), first_weights(2))


def test_counts_against_the_formula(fresh):
    base = fresh()
    total = sum(p.numel() for p in base.model.parameters())
    adapters.attach(base, AdapterConfig(r=4, bridge_full=True), "image", seed=0)
    linears = [base.model.get_submodule(n) for n in base.parts()["language"]]
    bridge = 24 * 32 + 32 + 32 * 32 + 32
    expected = sum(4 * (m.in_features + m.out_features) for m in linears) + bridge
    assert adapters.parameter_counts(base) == (expected, total + expected)


def test_a_moved_base_weight_changes_the_digest(fresh):
    base = fresh()
    digest = adapters.module_digest(base.model)
    adapters.attach(base, AdapterConfig(r=4, bridge_full=True), "image", seed=0)
    assert adapters.module_digest(base.model) == digest
    base.model.get_submodule("model.language_model.layers.1.mlp.up_proj").base_layer.weight.data[0, 0] += 1e-6
    assert adapters.module_digest(base.model) != digest


def test_gradients_name_the_part_that_got_none(scene):
    base, rows = scene(modality="image")
    adapters.attach(base, EVERYWHERE, ["image", "video"], seed=0)
    loss_of(base, *rows).backward()
    norms = adapters.gradient_norms(base)
    assert norms["tower.video"] == 0.0
    assert norms["tower.image"] > 0


@pytest.fixture
def saved(scene, tmp_path):
    """A folder with a trained adapter."""
    base, rows = scene()
    peft = adapters.attach(base, AdapterConfig(r=4, bridge_full=True), "image", seed=0)
    train(base, *rows, steps=2)
    adapters.save(peft, tmp_path / "adapter", card(base))
    return tmp_path / "adapter"


def edit_json(name, **values):
    def change(folder):
        raw = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**raw, **values}))

    return change


def edit_weights(change):
    def edit(folder):
        state = load_file(folder / "adapter_model.safetensors")
        change(state)
        save_file(state, folder / "adapter_model.safetensors")

    return edit


A, B = (f"base_model.model.model.language_model.layers.0.mlp.up_proj.lora_{x}.weight" for x in "AB")
TEXT_ONLY = {A: A.replace("language_model.", ""), B: B.replace("language_model.", "")}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (edit_json("adapter.json", backbone_digest="0" * 64), "load the backbone it was trained on"),
        (edit_json("adapter.json", surprise=1), "not an adapter card"),
        (edit_json("adapter.json", dense=True), "a dense change of the weights"),
        (lambda f: (f / "adapter.json").unlink(), "has its card there"),
        (edit_weights(lambda s: s.pop(A)), r"1 tensor\(s\) missing: .*up_proj.lora_A"),
        (edit_weights(lambda s: s.update(extra=torch.ones(1))), r"1 tensor\(s\) left over: extra"),
        (
            edit_weights(lambda s: [s.update({new: s.pop(old)}) for old, new in TEXT_ONLY.items()]),
            r"2 tensor\(s\) missing",
        ),
        (edit_weights(lambda s: s.update({A: s[A][:2].clone()})), r"of another shape: .*\(2, 32\) not \(4, 32\)"),
        (edit_weights(lambda s: s.update({A: torch.zeros(0, 32)})), "of another shape"),
        (edit_weights(lambda s: s[A].fill_(float("nan"))), "not finite: .*up_proj.lora_A"),
        (edit_json("adapter_config.json", peft_type="IA3"), "only LoRA"),
        (
            edit_json("adapter_config.json", target_modules=["model.decoder.q_proj"]),
            "'model.decoder.q_proj' .* not in this",
        ),
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "pickles are never read"),
    ],
)
def test_a_harmed_adapter_is_refused_and_leaves_the_backbone_alone(harm, message, saved, scene):
    harm(saved)
    base, rows = scene()
    with torch.no_grad():
        before = base.logits(base.hidden(*rows))
    with pytest.raises(AdapterError, match=message):
        adapters.load(base, saved)
    assert base.peft is None
    assert not any("lora" in name for name, _ in base.model.named_parameters())
    with torch.no_grad():
        assert torch.equal(before, base.logits(base.hidden(*rows)))


def lose_a_tensor(monkeypatch):
    """Let PEFT take in all tensors but one, as a version with other names would."""
    whole = adapters.set_peft_model_state_dict

    def partial(peft, state, **more):
        return whole(peft, {name: tensor for name, tensor in state.items() if name != B}, **more)

    monkeypatch.setattr(adapters, "set_peft_model_state_dict", partial)


def test_an_adapter_that_peft_half_takes_in_is_taken_off_again(saved, scene, monkeypatch):
    lose_a_tensor(monkeypatch)
    base, rows = scene()
    names = list(base.model.state_dict())
    with torch.no_grad():
        before = base.hidden(*rows)
    with pytest.raises(AdapterError, match=r"PEFT did not take in .*up_proj\.lora_B"):
        adapters.load(base, saved)
    assert base.peft is None
    assert list(base.model.state_dict()) == names
    with torch.no_grad():
        assert torch.equal(base.hidden(*rows), before)


@pytest.mark.parametrize("acting", ["one", "two"])
@pytest.mark.parametrize("options", [{}, {"bridge_full": True}])
def test_an_adapter_that_is_taken_off_again_leaves_the_others(acting, options, scene, tmp_path, monkeypatch):
    other, rows = scene()
    wider = {**options, "on": ("language", "bridge", "tower")}  # touches layers that no other one does
    adapters.save(trained(other, rows, "three", "image", 3, **wider), tmp_path, card(other), "three")
    base, rows = scene()
    trained(base, rows, "one", "image", 1, **options)
    trained(base, rows, "two", "text", 2)
    base.peft.set_adapter(acting)
    flags = {name: parameter.requires_grad for name, parameter in base.model.named_parameters()}
    with torch.no_grad():
        before = base.hidden(*rows)
        with adapters.active(base, "one"):
            one = base.hidden(*rows)
    with monkeypatch.context() as patch:
        lose_a_tensor(patch)
        with pytest.raises(AdapterError, match="PEFT did not take in"):
            adapters.load(base, tmp_path, "three")
        with pytest.raises(AdapterError, match="already attached"):
            adapters.load(base, tmp_path, "one")
    assert set(base.peft.peft_config) == {"one", "two"}
    after = {name: parameter.requires_grad for name, parameter in base.model.named_parameters()}
    assert {name: flag for name, flag in after.items() if flag} == {name: flag for name, flag in flags.items() if flag}
    assert not any("three" in name for name in after)
    with torch.no_grad():
        assert torch.equal(base.hidden(*rows), before)
        with adapters.active(base, "one"):
            assert torch.equal(base.hidden(*rows), one)
    assert base.peft.base_model.active_adapter == acting
    adapters.load(base, tmp_path, "three")
    with torch.no_grad(), adapters.active(base, "three"):
        assert not torch.equal(base.hidden(*rows), before)


def test_one_adapter_is_removed_and_what_acts_goes_on(scene):
    base, rows = scene()
    trained(base, rows, "one", "image", 1, bridge_full=True)
    trained(base, rows, "two", "text", 2)
    with torch.no_grad(), adapters.active(base, "one"):
        one = base.hidden(*rows)
        adapters.remove(base, "two")
        assert torch.equal(base.hidden(*rows), one)
    assert set(base.peft.peft_config) == {"one"}
    adapters.remove(base, "one")
    assert base.peft is None


def test_another_backbone_is_refused(saved, backbone_folder):
    other = load_backbone(backbone_folder("video_llava", 1))
    with pytest.raises(AdapterError, match="made on a backbone of digest"):
        adapters.load(other, saved)


def test_nothing_learned_is_not_saved_as_an_adapter(fresh, tmp_path):
    base = fresh()
    peft = adapters.attach(base, AdapterConfig(r=4), "image", seed=0)
    with pytest.raises(AdapterError, match="every lora_B is zero"):
        adapters.save(peft, tmp_path, card(base))


def test_equal_training_gives_equal_bytes(scene, tmp_path):
    for copy in "ab":
        base, rows = scene()
        peft = adapters.attach(base, AdapterConfig(r=4, bridge_full=True), "image", seed=0)
        train(base, *rows, steps=2)
        adapters.save(peft, tmp_path / copy, card(base))
    for file in ("adapter.json", "adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert str(tmp_path) not in (tmp_path / "a" / "adapter_config.json").read_text()


def trained(base, rows, name, modality, seed, **options):
    peft = adapters.attach(base, AdapterConfig(r=4, **options), modality, seed=seed, name=name)
    with adapters.active(base, name):
        train(base, *rows, steps=2)
    return peft


def test_switching_adapters_and_back(scene, fresh, tmp_path):
    base, rows = scene()
    with torch.no_grad():
        bare = base.hidden(*rows)
    trained(base, rows, "one", "image", 1)
    trained(base, rows, "two", "image", 2)
    flags = {name: p.requires_grad for name, p in base.model.named_parameters()}
    with torch.no_grad():
        two = base.hidden(*rows)
        with adapters.active(base, "one"):
            one = base.hidden(*rows)
            with adapters.active(base, None):
                assert torch.equal(base.hidden(*rows), bare)
            assert torch.equal(base.hidden(*rows), one)
        assert torch.equal(base.hidden(*rows), two)
        with pytest.raises(RuntimeError, match="inside"), adapters.active(base, None):
            raise RuntimeError("inside")
        assert torch.equal(base.hidden(*rows), two)
    assert not torch.equal(one, two)
    assert {name: p.requires_grad for name, p in base.model.named_parameters()} == flags
    adapters.save(base.peft, tmp_path, card(base), name="one")
    alone = fresh()
    adapters.load(alone, tmp_path)
    with torch.no_grad():
        assert torch.equal(alone.hidden(*rows), one)
    with pytest.raises(AdapterError, match="no adapter three; attached: one, two"), adapters.active(base, "three"):
        pass
    with pytest.raises(AdapterError, match="already attached"):
        adapters.attach(base, AdapterConfig(r=4), "image", seed=0, name="two")


def test_several_active_adapters_add_up(scene, fresh):
    base, rows = scene()
    trained(base, rows, "one", "image", 1)
    trained(base, rows, "two", "image", 2)
    dense = fresh()
    for name in base.peft.base_model.targeted_module_names:
        layer = base.model.get_submodule(name)
        weight = dense.model.get_submodule(name).weight
        weight.data += sum(layer.get_delta_weight(adapter) for adapter in ("one", "two")).detach()
    with torch.no_grad(), adapters.active(base, ["one", "two"]):
        torch.testing.assert_close(base.hidden(*rows), dense.hidden(*rows), rtol=1e-4, atol=1e-5)


def test_whole_bridges_do_not_add_up_side_by_side(scene):
    base, rows = scene()
    trained(base, rows, "one", "image", 1, bridge_full=True)
    trained(base, rows, "two", "image", 2, bridge_full=True)
    with pytest.raises(AdapterError, match="merge them as dense"), adapters.active(base, ["one", "two"]):
        pass
    with torch.no_grad():
        with adapters.active(base, "one"):
            one = base.hidden(*rows)
        with adapters.active(base, "two"):
            two = base.hidden(*rows)
    assert not torch.equal(one, two)


def test_detached_is_as_loaded(scene):
    base, rows = scene()
    names = list(base.model.state_dict())
    with torch.no_grad():
        before = base.hidden(*rows)
    trained(base, rows, "one", "image", 1, bridge_full=True)
    adapters.detach(base)
    assert list(base.model.state_dict()) == names
    assert not any(p.requires_grad for p in base.model.parameters())
    with torch.no_grad():
        assert torch.equal(base.hidden(*rows), before)
    with adapters.active(base, None):
        pass
    with pytest.raises(AdapterError, match="nothing is attached"), adapters.active(base, "one"):
        pass


def test_a_text_adapter_never_touches_the_bridge(scene, fresh, media, prompt):
    base, rows = scene(modality="text")
    peft = adapters.attach(base, AdapterConfig(r=4, bridge_full=True), "text", seed=0)
    train(base, *rows)
    assert peft.peft_config["default"].modules_to_save is None
    bare, batch = fresh(), media(base, "image", 2)
    with torch.no_grad():
        ours, theirs = (next(iter(b.embed_media(batch)))[1] for b in (base, bare))
    assert torch.equal(ours, theirs)


def test_a_trained_tower_shows(fresh):
    base = fresh()
    assert not base.tower_trains("image")
    adapters.attach(base, AdapterConfig(r=4, on=("language", "tower")), "image", seed=0)
    assert base.tower_trains("image")
    assert not base.tower_trains("video")


def test_the_card_says_what_it_is(saved):
    read = adapters.read_card(saved)
    assert read.modality == ("image",)
    assert read.parameters == sum(t.numel() for t in load_file(saved / "adapter_model.safetensors").values())
    assert read.total_parameters > read.parameters
    assert AdapterCard.model_validate_json(read.model_dump_json()) == read
