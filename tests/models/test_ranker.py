"""The ranker: DLRM's interactions, losses against closed forms, what is unseen or absent, saving and loading."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from latefuse.config_rank import Imbalance, Inputs, Rank
from latefuse.models import ranker
from latefuse.models.adapter_files import AdapterCard, AdapterError
from latefuse.models.backbone import Backbone, load
from latefuse.models.ranker import Ranker, Shown

INPUTS = Inputs(numbers=("price", "events"), hashed=("user", "tags"), vectors={"item words": 6, "item picture": 5})


def made(seed: int = 0, **settings: object) -> Ranker:
    torch.manual_seed(seed)
    return Ranker(Rank.model_validate({"dim": 8, "bottom": [12], "top": [10], "bins": 30, **settings}), INPUTS)


def shown(rows: int = 5, seed: int = 1) -> Shown:
    draw = torch.Generator().manual_seed(seed)
    tags = torch.randint(1, 30, (2 * rows,), generator=draw)
    place = torch.arange(rows) % 3
    return Shown(
        numbers=torch.randn(rows, 2, generator=draw),
        hashed={
            "user": (torch.randint(1, 30, (rows,), generator=draw), torch.arange(rows)),
            "tags": (tags, 2 * torch.arange(rows)),
        },
        vectors={
            "item words": (torch.randn(3, 6, generator=draw), place),
            "item picture": (torch.randn(3, 5, generator=draw), place.flip(0)),
        },
    )


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_interactions_are_those_of_a_double_loop(parts: int):
    z = torch.randn(4, parts, 3, dtype=torch.float64, requires_grad=True)
    found = ranker.interactions(z)
    naive = [[(z[b, i] @ z[b, j]).item() for i in range(parts) for j in range(i)] for b in range(4)]
    assert found.shape == (4, parts * (parts - 1) // 2)
    torch.testing.assert_close(found, torch.tensor(naive, dtype=torch.float64).reshape(found.shape))
    if parts > 1:
        assert torch.autograd.gradcheck(ranker.interactions, z)


def test_a_score_is_the_networks_of_the_paper():
    """The whole forward pass once more, row by row in plain words."""
    net, read = made().eval(), shown()
    net.learn_numbers(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.25]))
    for name, (values, _) in read.hashed.items():
        net.learn_values(name, values)
    for name, (vectors, _) in read.vectors.items():
        net.learn_vectors(name, vectors)
    for row in range(5):
        numbers = (read.numbers[row] - torch.tensor([0.5, -1.0])) / torch.tensor([2.0, 0.25])
        dense = net.bottom(torch.cat([numbers, torch.zeros(4)]))
        user = net.tables["user"].weight[read.hashed["user"][0][row]]
        tags = net.tables["tags"].weight[read.hashed["tags"][0][2 * row : 2 * row + 2]].mean(0)
        parts = [dense, user, tags]
        for name, (vectors, place) in read.vectors.items():
            key = name.replace(" ", "_")
            scaled = (vectors[place[row]] - vectors.mean(0)) / vectors.std(0, correction=0)
            parts.append(F.normalize(net.norm[key](net.project[key](scaled)), dim=0))
        products = [parts[i] @ parts[j] for i in range(5) for j in range(i)]
        torch.testing.assert_close(net(read)[row], net.top(torch.cat([dense, torch.stack(products)]))[0])


def test_losses_are_their_closed_forms():
    logits, labels = torch.tensor([0.3, -1.2, 2.0, -0.4]), torch.tensor([True, False, False, True])
    p = torch.sigmoid(logits)
    right = torch.where(labels, p, 1 - p)
    plain = -right.log()
    assert ranker.like_loss(logits, labels, Imbalance(), 0.5).item() == pytest.approx(plain.sum().item())
    focal = ranker.like_loss(logits, labels, Imbalance(loss="focal", gamma=1.5), 0.5)
    assert focal.item() == pytest.approx(((1 - right) ** 1.5 * plain).sum().item(), rel=1e-5)
    weights = torch.where(labels, 0.5 / 0.2, 0.5 / 0.8)
    weighted = ranker.like_loss(logits, labels, Imbalance(loss="weighted"), 0.2)
    assert weighted.item() == pytest.approx((weights * plain).sum().item(), rel=1e-6)


@pytest.mark.parametrize(("keep", "loss"), [(0.1, "bce"), (1.0, "weighted"), (0.25, "weighted"), (1.0, "bce")])
def test_the_shift_takes_trained_odds_back_to_those_of_all_rows(keep: float, loss: str):
    """The best constant logit on what is trained, shifted, is the log-odds of all rows: in closed form."""
    likes, others = 20, 980
    kept = others * keep
    positive = likes / (likes + kept)
    how = Imbalance(loss=loss, keep_negatives=keep)
    trained = 0.0 if loss == "weighted" else math.log(likes / kept)
    assert trained + ranker.shift_of(how, positive) == pytest.approx(math.log(likes / others), abs=1e-5)


def test_what_training_has_not_seen_is_the_unseen_row():
    net, read = made().eval(), shown()
    net.learn_values("tags", read.hashed["tags"][0])
    users = torch.tensor([7, 8, 9, 10, 11])
    net.learn_values("user", users[:2])

    def scores(values: torch.Tensor) -> torch.Tensor:
        return net(Shown(read.numbers, {**read.hashed, "user": (values, torch.arange(5))}, read.vectors))

    own, nobody = scores(users), scores(torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(own[2:], nobody[2:])
    assert not torch.allclose(own[:2], nobody[:2])


def test_what_is_absent_has_a_vector_of_its_own_and_is_told():
    net, read = made().eval(), shown()
    nothing = torch.full((5,), -1)
    gone = Shown(read.numbers, read.hashed, {**read.vectors, "item picture": (torch.zeros(0, 5), nothing)})
    zero = Shown(read.numbers, read.hashed, {**read.vectors, "item picture": (torch.zeros(1, 5), nothing + 1)})
    assert not torch.allclose(net(gone), net(zero))
    some = Shown(
        read.numbers, read.hashed, {**read.vectors, "item picture": (read.vectors["item picture"][0], nothing)}
    )
    torch.testing.assert_close(net(gone), net(some))
    net(gone).sum().backward()
    assert all(p.grad is not None for p in net.parameters())  # processes whose rows lack pictures touch the same
    unknown = read.numbers.clone()
    unknown[:, 0] = float("nan")
    found = net(Shown(unknown, read.hashed, read.vectors))
    assert found.isfinite().all()
    assert not torch.allclose(found, net(Shown(unknown.nan_to_num(0.0), read.hashed, read.vectors)))


def test_components_are_of_variance_one_and_span_what_varies_most():
    draw = torch.Generator().manual_seed(3)
    hidden = torch.randn(200, 2, generator=draw, dtype=torch.float64) * torch.tensor([3.0, 2.0])
    vectors = hidden @ torch.randn(2, 6, generator=draw, dtype=torch.float64)
    vectors = vectors - vectors.mean(0)
    found = vectors @ ranker.whitening(vectors, 4)
    torch.testing.assert_close(found[:, :2].T @ found[:, :2] / 199, torch.eye(2, dtype=torch.float64))
    assert (found[:, 2:] == 0).all()
    left = torch.linalg.svd(vectors, full_matrices=False).U[:, :2]
    torch.testing.assert_close(found[:, :2] @ found[:, :2].T / 199, left @ left.T)


def test_a_ranker_reads_the_components_of_what_training_has():
    net, read = made(components=2).eval(), shown()
    assert net.project["item_words"].in_features == 2
    known = torch.randn(40, 6, generator=torch.Generator().manual_seed(4))
    net.learn_vectors("item words", known)
    moved = (known.double() - known.double().mean(0)) / known.double().std(0, correction=0)
    _, values, axes = torch.linalg.svd(moved, full_matrices=False)
    distinct, place = read.vectors["item words"]
    scaled = (distinct - known.mean(0)) / known.std(0, correction=0)
    components = scaled.double() @ axes[:2].T / (values[:2] / 39**0.5)
    signs = torch.sign((scaled @ net.basis_item_words * components).sum(0)).float()
    expected = F.normalize(net.norm["item_words"](net.project["item_words"](components.float() * signs)), dim=-1)
    found, _ = net._vector("item words", distinct, place)
    torch.testing.assert_close(found, expected[place])


def test_sparse_gradients_train_the_same_weights():
    weights = {}
    for sparse in (True, False):
        net, read = made(sparse=sparse, absence=0.0).train(), shown()
        for name, (values, _) in read.hashed.items():
            net.learn_values(name, values)
        optimiser = torch.optim.Adagrad(net.parameters(), lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            ranker.like_loss(net(read), torch.tensor([True, False, True, False, False]), Imbalance(), 0.4).backward()
            assert net.tables["user"].weight.grad.is_sparse is sparse
            optimiser.step()
        weights[sparse] = {name: value.clone() for name, value in net.state_dict().items()}
    for name, value in weights[True].items():
        torch.testing.assert_close(value, weights[False][name], msg=name)


@pytest.fixture
def backbone(backbone_folder: Callable[..., Path]) -> Backbone:
    return load(backbone_folder())


def card(backbone: Backbone, **other: object) -> AdapterCard:
    told = {"task": "like", "kind": "rank", "modality": (), "arm": "like", "seed": 0, "config_digest": "c"}
    return AdapterCard.model_validate({**told, "backbone_digest": backbone.digest, "data_fingerprint": "d", **other})


def test_a_ranker_comes_back_as_it_was_saved(backbone: Backbone, tmp_path: Path):
    settings = Rank(dim=8, bottom=(12,), top=(10,), bins=30)
    net, read = ranker.build(backbone, settings, INPUTS, 3), shown()
    net.learn_values("user", torch.arange(1, 30))
    net.shift.fill_(-1.5)
    net.eval()
    before = net(read)
    tmp_path.mkdir(exist_ok=True)
    kept = ranker.save(backbone, tmp_path, card(backbone))
    assert kept.parameters == sum(p.numel() for p in net.parameters())
    backbone.head = None
    ranker.load(backbone, tmp_path)
    torch.testing.assert_close(backbone.head(read), before, rtol=0, atol=0)
    assert not any(p.requires_grad for p in backbone.head.parameters())


def test_a_ranker_that_does_not_fit_is_refused(backbone: Backbone, tmp_path: Path):
    ranker.build(backbone, Rank(dim=8, bottom=(12,), top=(10,), bins=30), INPUTS, 3)
    ranker.save(backbone, tmp_path, card(backbone))
    ranker.save(backbone, tmp_path, card(backbone, backbone_digest="another"))
    with pytest.raises(AdapterError, match="made on a backbone of digest another"):
        ranker.load(backbone, tmp_path)
    ranker.save(backbone, tmp_path, card(backbone, kind="judge"))
    with pytest.raises(AdapterError, match="scores need one of kind rank"):
        ranker.load(backbone, tmp_path)
    ranker.save(backbone, tmp_path, card(backbone))
    state = load_file(tmp_path / ranker.RANKER)
    (tmp_path / ranker.RANKER).unlink()
    with pytest.raises(AdapterError, match="no such file"):
        ranker.load(backbone, tmp_path)
    ranker.build(backbone, Rank(dim=8, bottom=(12,), top=(10,), bins=30), INPUTS, 3).mean.fill_(float("nan"))
    with pytest.raises(AdapterError, match="not finite: mean"):
        ranker.save(backbone, tmp_path, card(backbone))
    save_file({name: value for name, value in state.items() if name != "mean"}, tmp_path / ranker.RANKER)
    with pytest.raises(AdapterError, match=r"1 tensor\(s\) do not fit this rank network: mean"):
        ranker.load(backbone, tmp_path)
    assert backbone.head is None
