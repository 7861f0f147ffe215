"""Proofs hold for right merges and fail, by name, for every kind of wrong folder."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from latefuse.fusion.changes import base_weights
from latefuse.fusion.folders import read, save_merged
from latefuse.fusion.proof import Check, Merge, ProofError, _cut, compare_logits, prove_weights, store

W = (0.7, 1.3, 0.4)
METHODS = {
    "concat": Merge("concat", W),
    "ties": Merge("ties", W, density=0.4),
    "ties-all": Merge("ties", W, density=1.0),
    "dare": Merge("dare", W, density=0.4, seed=3),
    "dare-all": Merge("dare", W, density=1.0),
    "svd": Merge("svd", W),
    "svd-one": Merge("svd", W, rank=1),
    "svd-full": Merge("svd", W, rank=100),
    "one-only": Merge("concat", (0.0, 1.0, 0.0)),
}


@pytest.fixture(params=["plain", "odd"])
def changes(request, net, make_adapter):
    kinds = {
        "plain": [{"use_rslora": True}, {"target_modules": ["block.up", "up"]}, {"r": 1, "lora_alpha": 3}],
        "odd": [
            {"use_dora": True},
            {"modules_to_save": ["head"], "bias": "lora_only"},
            {"target_modules": ["head", "block.up"]},
        ],
    }[request.param]
    base = base_weights(net)
    return [read(make_adapter(f"a{i}", i, **kind)[0], base, f"a{i}") for i, kind in enumerate(kinds)]


@pytest.mark.parametrize("name", METHODS)
def test_the_claims_of_every_merge_hold(name, net, changes, tmp_path):
    base, merge = base_weights(net), METHODS[name]
    save_merged(tmp_path / "out", merge.run(changes), base, {})
    checks = prove_weights(tmp_path / "out", merge, changes, base, 1e-4)
    assert len(checks) == 3
    assert all(check.holds for check in checks)
    proof = store(tmp_path / "out", merge, checks, {"energy": 1.0})
    stored = json.loads((tmp_path / "out" / "proof.json").read_text())
    assert stored == json.loads(json.dumps(proof))
    assert stored["holds"] is True
    assert stored["energy"] == 1.0
    assert stored["method"] == merge.method
    assert stored["weights"] == list(merge.weights)
    assert all(check["error"] < 1e-5 and check["holds"] for check in stored["checks"])


@pytest.mark.parametrize("name", ["concat", "ties", "dare", "svd"])
def test_a_folder_with_other_weights_fails_and_the_proof_says_so(name, net, changes, tmp_path):
    base, merge = base_weights(net), METHODS[name]
    wrong = Merge(merge.method, (0.7, 1.3, 0.4003), merge.density, merge.rank, merge.seed)
    save_merged(tmp_path / "out", wrong.run(changes), base, {})
    checks = prove_weights(tmp_path / "out", merge, changes, base, 1e-4)
    assert [check.holds for check in checks] == [False, True, True]
    with pytest.raises(ProofError, match="read back") as error:
        store(tmp_path / "out", merge, checks, {})
    assert checks[0].where in str(error.value)
    assert json.loads((tmp_path / "out" / "proof.json").read_text())["holds"] is False


def test_one_changed_entry_and_one_lost_weight_are_found(net, changes, tmp_path):
    base, merge = base_weights(net), METHODS["ties"]
    save_merged(tmp_path / "out", merge.run(changes), base, {})
    file = tmp_path / "out" / "delta.safetensors"
    tensors = load_file(file)
    tensors["block.up.weight"][0, 0] += 1e-3 * tensors["block.up.weight"].norm()
    save_file(tensors, file)
    check = prove_weights(tmp_path / "out", merge, changes, base, 1e-4)[0]
    assert not check.holds
    assert check.where == "block.up.weight"
    assert check.error == pytest.approx(1e-3, rel=0.1)
    del tensors["block.up.weight"]
    save_file(tensors, file)
    with pytest.raises(ProofError, match=r"block\.up\.weight"):
        prove_weights(tmp_path / "out", merge, changes, base, 1e-4)


def test_a_nan_error_does_not_hold():
    assert not Check("x", math.nan, 1e-4).holds
    assert not compare_logits("x", torch.tensor([math.nan]), torch.ones(1), 1e-4).holds
    assert compare_logits("x", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]), 1e-4).error == pytest.approx(
        0.1 / 5.41**0.5
    )


def test_large_matrices_are_cut_through_their_range():
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((700, 6), (6, 600)))
    u, s, v = torch.linalg.svd(left @ right, full_matrices=False)
    torch.testing.assert_close(_cut(left @ right, 3, 6), (u[:, :3] * s[:3]) @ v[:3], atol=1e-9, rtol=1e-9)
