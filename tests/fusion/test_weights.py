"""The merges against brute force on dense changes, and against PEFT where PEFT is right."""

from __future__ import annotations

import copy
import itertools
import math

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latefuse.fusion.changes import Change, FusionError, added, base_weights
from latefuse.fusion.folders import delta, read, save_merged
from latefuse.fusion.weights import concat, dare, dare_mask, merge, svd, ties, ties_layer

W = (0.7, 1.3, 0.4)


@pytest.fixture
def three(net, make_adapter):
    """Adapters of different ranks, scalings and modules, one of them DoRA, one with a module trained whole."""
    base = base_weights(net)
    kinds = {
        "image": {"r": 2, "use_rslora": True},
        "text": {"r": 3, "target_modules": ["block.up", "up"]},
        "video": {"r": 4, "lora_alpha": 2, "rank_pattern": {"block.down": 1}},
    }
    return [read(make_adapter(name, seed, **kind)[0], base, name) for seed, (name, kind) in enumerate(kinds.items())]


@pytest.fixture
def odd(net, make_adapter):
    base = base_weights(net)
    kinds = {
        "dora": {"use_dora": True},
        "whole": {"modules_to_save": ["head"], "bias": "lora_only"},
        "lora-on-whole": {"target_modules": ["head", "block.up"]},
    }
    return [read(make_adapter(name, seed, **kind)[0], base, name) for seed, (name, kind) in enumerate(kinds.items())]


def dense(change: Change) -> dict[str, torch.Tensor]:
    return {name: change[name] for name in change.parameters}


def weighted_sum(changes, weights) -> dict[str, torch.Tensor]:
    total: dict[str, torch.Tensor] = {}
    for change, weight in zip(changes, weights, strict=True):
        for name in change.parameters:
            total[name] = total.get(name, 0) + weight * change[name].double()
    return total


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert (tensor.double() - right[name].double()).norm() <= tolerance * right[name].double().norm(), name


@pytest.mark.parametrize("group", ["three", "odd"])
def test_concat_is_the_weighted_sum(group, request):
    changes = request.getfixturevalue(group)
    same(dense(concat(changes, W)), weighted_sum(changes, W))


def test_concat_has_the_sum_of_the_ranks(three):
    merged = concat(three, W)
    assert {module: down.shape[0] for module, (down, _) in merged.low.items()} == {
        "block.up": 9,
        "block.down": 3,
        "up": 3,
    }


def test_concat_in_plain_peft_equals_the_scaled_adapters_active_together(net, three, tmp_path, make_adapter):
    merged = concat(three, W)
    assert save_merged(tmp_path / "merged", merged, base_weights(net), {})
    x = torch.randn(11, 6)
    together = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "image", adapter_name="image")
    for name in ("text", "video"):
        together.load_adapter(tmp_path / name, adapter_name=name)
    together.base_model.set_adapter(["image", "text", "video"])
    for module in together.modules():
        for name, weight in zip(("image", "text", "video"), W, strict=True):
            if name in getattr(module, "scaling", {}):
                module.scaling[name] *= weight
    alone = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "merged")
    assert (alone(x) - net(x)).abs().max() > 0.05
    torch.testing.assert_close(alone.eval()(x), together.eval()(x), atol=1e-5, rtol=1e-5)


def test_merged_forward_equals_peft_merging_a_single_adapter(net, make_adapter):
    folder, merged = make_adapter("one", 9, use_rslora=True)
    x = torch.randn(7, 6)
    expected = merged(x)
    with added(net, concat([read(folder)], [1.0])):
        assert (net(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["concat", "ties", "dare", "svd"])
@pytest.mark.parametrize("group", ["three", "odd"])
def test_weights_one_zero_zero_are_the_first_adapter(method, group, request):
    changes = request.getfixturevalue(group)
    rank = 99 if group == "odd" else None  # the change that DoRA makes has full rank
    for i, change in enumerate(changes):
        weights = [float(i == j) for j in range(3)]
        same(dense(merge(method, changes, weights, 1.0, rank, 0)[0]), dense(change))


@pytest.mark.parametrize("method", ["concat", "ties", "dare", "svd"])
def test_the_order_of_the_adapters_does_not_matter(method, three):
    expected = dense(merge(method, three, W, 0.5, 2, 3)[0])
    for order in itertools.permutations(range(3)):
        found = dense(merge(method, [three[i] for i in order], [W[i] for i in order], 0.5, 2, 3)[0])
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items()), order


def ties_of_one_entry(values, weights):
    """The elected sign and the weighted mean of those who share it, in plain numbers."""
    balance = sum(v * w for v, w in zip(values, weights, strict=True))
    agreeing = [(v, w) for v, w in zip(values, weights, strict=True) if v * balance > 0]
    if not agreeing:
        return 0.0
    return sum(v * w for v, w in agreeing) / sum(w for _, w in agreeing) * sum(weights)


@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=6, max_size=6), min_size=1, max_size=4),
    st.sampled_from([0.17, 0.34, 0.5, 0.84, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_ties_entry_by_entry(rows, density):
    weights = [0.25, 0.5, 1.0, 2.0][: len(rows)]
    found = ties_layer(torch.tensor(rows, dtype=torch.float32), torch.tensor(weights), density)
    trimmed = []
    for row in rows:
        threshold = sorted(map(abs, row))[::-1][math.ceil(density * 6) - 1]
        trimmed.append([value if abs(value) >= threshold else 0 for value in row])
    expected = [ties_of_one_entry([row[i] for row in trimmed], weights) for i in range(6)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=1e-5)


def test_ties_at_density_one_is_the_sum_where_signs_agree_and_is_not_where_they_do_not(three):
    aligned = [Change(c.name, dense={name: c[name].abs() for name in c.parameters}) for c in three]
    weights = (0.5, 1.5, 1.0)
    found = ties(aligned, weights, 1.0)
    common = [name for name in found.parameters if all(name in c.parameters for c in three)]
    expected = weighted_sum(aligned, weights)
    same({name: found[name] for name in common}, {name: expected[name] for name in common})
    clashing = ties(three, weights, 1.0)["block.up.weight"]
    assert (clashing - weighted_sum(three, weights)["block.up.weight"]).norm() > 0.1 * clashing.norm()


def test_ties_refuses_negative_weights(three):
    with pytest.raises(FusionError, match="negative"):
        ties(three, (1, -1, 1), 0.5)


def test_dare_drops_by_its_own_mask_and_rescales(three):
    found = dare(three, W, 0.25, seed=4)
    for name in found.parameters:
        expected = torch.zeros_like(found[name])
        for change, weight in zip(three, W, strict=True):
            if name in change.parameters:
                mask = dare_mask(expected.shape, 0.25, 4, change.name, name)
                expected += weight * torch.where(mask, change[name] * 4, torch.zeros(()))
        torch.testing.assert_close(found[name], expected)


def test_dare_masks_have_the_density_and_differ_by_seed_adapter_and_parameter():
    shape = torch.Size((200, 200))
    masks = [dare_mask(shape, 0.3, *key) for key in ((0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"))]
    for mask in masks:
        assert abs(mask.float().mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 40_000)
    for left, right in itertools.combinations(masks, 2):
        assert abs((left & right).float().mean() - 0.09) < 0.01
    assert torch.equal(masks[0], dare_mask(shape, 0.3, 0, "a", "x"))


def test_dare_is_unbiased():
    change = Change("a", dense={"x.weight": torch.randn(20, 20)})
    mean = torch.stack([dare([change], [0.5], 0.5, seed)["x.weight"] for seed in range(600)]).mean(dim=0)
    assert (mean - 0.5 * change["x.weight"]).norm() < 0.06 * (0.5 * change["x.weight"]).norm()


@pytest.mark.parametrize("group", ["three", "odd"])
@pytest.mark.parametrize("rank", [None, 1, 2, 99])
def test_svd_is_the_best_approximation_of_its_rank(group, rank, request):
    changes = request.getfixturevalue(group)
    found, energy = svd(changes, W, rank)
    kept = every = 0.0
    for name, total in weighted_sum(changes, W).items():
        module = name.removesuffix(".weight")
        if total.dim() == 1 or (name == "head.weight" and group == "odd"):
            torch.testing.assert_close(found[name].double(), total, atol=1e-6, rtol=1e-5)
            continue
        cut = rank or max(change.ranks.get(module, 0) for change in changes)
        left, sizes, right = torch.linalg.svd(total, full_matrices=False)
        best = (left[:, :cut] * sizes[:cut]) @ right[:cut]
        assert (found[name].double() - best).norm() < 1e-5 * total.norm()
        share = float(sizes[:cut].square().sum() / sizes.square().sum())
        assert energy.modules[module] == pytest.approx(share, abs=1e-5)
        assert found.low[module][0].shape[0] <= cut
        kept, every = kept + float(sizes[:cut].square().sum()), every + float(sizes.square().sum())
    assert energy.total == pytest.approx(kept / every, abs=1e-5)
    assert (energy.total == pytest.approx(1)) == (rank == 99)


def test_a_merged_folder_can_be_merged_again(net, three, tmp_path):
    base = base_weights(net)
    save_merged(tmp_path / "first", concat(three[:2], W[:2]), base, {})
    again = concat([read(tmp_path / "first", base, "first"), three[2]], (1.0, W[2]))
    same(dense(again), weighted_sum(three, W))
    save_merged(tmp_path / "dense", ties(three, W, 0.5), base, {})
    same(delta(tmp_path / "dense"), dense(ties(three, W, 0.5)))


@pytest.mark.parametrize("weights", [(1, 1), (0, 0, 0), (1, float("nan"), 1)])
def test_wrong_weights_are_refused(three, weights):
    with pytest.raises(FusionError):
        concat(three, weights)


@pytest.mark.parametrize("density", [0.0, -1.0, 1.5])
def test_wrong_densities_are_refused(three, density):
    for method in ("ties", "dare"):
        with pytest.raises(FusionError, match=r"fusion\.density"):
            merge(method, three, W, density, None, 0)


def test_adapters_of_different_backbones_are_refused(three):
    other = Change("other", dense={"block.up.weight": torch.zeros(3, 3)})
    with pytest.raises(FusionError, match="different backbones"):
        concat([three[0], other], (1, 1))
