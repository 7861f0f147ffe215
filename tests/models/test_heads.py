"""The late-fusion gate's algebra, and what a head holds for each arm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latefuse.config_vectors import Embed
from latefuse.models import adapter_files, heads
from latefuse.models.adapter_files import AdapterError, write_tensors
from latefuse.models.heads import EmbedHead, gated

H, C = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_gate_of_zeros_is_the_exact_average() -> None:
    assert torch.equal(gated(H, C, torch.zeros(8, 16, dtype=torch.float64)), 0.5 * H + 0.5 * C)


@pytest.mark.parametrize(("z", "wanted"), [(1.0, H), (0.0, C)])
def test_a_gate_forced_open_gives_the_state_and_forced_shut_the_picture(z: float, wanted: torch.Tensor) -> None:
    # h >= 0 makes W_g [h; c] very large of one sign: the sigmoid is then exactly 0 or 1 in float64.
    h = H.abs() + 0.1
    weight = torch.zeros(8, 16, dtype=torch.float64)
    weight[:, :8] = 1e4 if z else -1e4
    torch.testing.assert_close(gated(h, C, weight), h if z else C, rtol=0, atol=1e-12)


def test_the_gate_is_element_by_element_as_written_in_the_paper() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = gated(H, C, weight)
    for row in range(5):
        for k in range(8):
            logit = sum(float(weight[k, j]) * float(torch.cat([H[row], C[row]])[j]) for j in range(16))
            z = 1 / (1 + 2.718281828459045**-logit)
            assert float(found[row, k]) == pytest.approx(z * float(H[row, k]) + (1 - z) * float(C[row, k]), abs=1e-12)


def arm(inputs: tuple[Any, ...], light: bool = False, **settings: Any) -> EmbedHead:
    return EmbedHead(Embed(**settings), inputs, 8, {"image": 6, "video": 6}, 7 if light else None)


def test_without_gate_a_head_only_reduces() -> None:
    head = arm(("text", "image"), gate=False)
    assert head.gate is None
    assert head.absent is None
    assert torch.equal(head.fuse(H.float(), C.float()), head.reduce(H.float()))


def test_an_arm_has_only_what_it_shows() -> None:
    def tokens(head: EmbedHead) -> set[str]:
        return set(head.learned)

    assert tokens(arm(("text", "image"))) == {"marker_image", "absent_image", "absent_text"}
    assert tokens(arm(("text", "image"), prompt="basic")) == {"absent_image", "absent_text"}
    assert tokens(arm(("text", "image"), prompt="none")) == {"absent_text"}
    assert tokens(arm(("text",))) == {"absent_text"}
    assert tokens(arm(("image",))) == {"absent_image"}
    assert tokens(arm(("text", "image"), light=True)) == {"absent_image", "absent_text"}
    assert arm(("text",)).gate is None
    assert arm(("text", "image", "video")).views == ("multimodal", "image", "video")
    assert arm(("image", "video")).views == ("multimodal", "image")
    assert arm(("text", "image"), prompt="basic").views == ("multimodal",)
    assert arm(("text",)).views == ("multimodal",)


def test_the_first_weights_come_from_the_seed_alone_and_a_saved_head_is_the_same(
    fresh_backbone: Callable[..., Any], tmp_path: Path
) -> None:
    settings = Embed()
    first, again, other = (
        heads.build(fresh_backbone(), settings, ("text", "image"), seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["reduce.weight"], other["reduce.weight"])
    backbone = fresh_backbone()
    heads.save_head(heads.build(backbone, settings, ("text", "image"), 1), tmp_path)
    loaded = heads.load_head(fresh_backbone(), tmp_path, settings, ("text", "image"))
    assert all(torch.equal(first[name], tensor) for name, tensor in loaded.state_dict().items())
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_head_that_does_not_fit_is_refused(fresh_backbone: Callable[..., Any], tmp_path: Path) -> None:
    heads.save_head(heads.build(fresh_backbone(), Embed(), ("text", "image"), 1), tmp_path)
    with pytest.raises(AdapterError, match=r"head\.safetensors: .* do not fit this embed network"):
        heads.load_head(fresh_backbone(), tmp_path, Embed(dim=32), ("text", "image"))
    (tmp_path / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(AdapterError, match="no readable safetensors"):
        heads.load_head(fresh_backbone(), tmp_path, Embed(), ("text", "image"))
    with pytest.raises(AdapterError, match="no such file"):
        heads.load_head(fresh_backbone(), tmp_path / "gone", Embed(), ("text", "image"))


def test_tensors_are_read_again_before_they_count_as_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"b": torch.ones(2, 3), "a": torch.zeros(4)}
    assert write_tensors(tmp_path / "new" / "x.safetensors", state) == 10
    assert list(load_file(tmp_path / "new" / "x.safetensors")) == ["a", "b"]
    with pytest.raises(AdapterError, match=r"x\.safetensors: not finite: a"):
        write_tensors(tmp_path / "x.safetensors", {**state, "a": torch.tensor([1.0, torch.nan])})
    monkeypatch.setattr(adapter_files, "load_file", lambda path: {**state, "b": torch.zeros(2, 3)})
    with pytest.raises(AdapterError, match="b came back changed"):
        write_tensors(tmp_path / "x.safetensors", state)
