"""The contrastive objective against brute force, over processes, and with gradient caching."""

from __future__ import annotations

import math
import socket
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from latefuse.training import contrast
from latefuse.training.contrast import cached, view_loss

ALL = torch.ones(16, dtype=torch.bool)


def units(rows: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def brute_force(
    rows: Tensor, content: list[int], there: list[bool], scale: float, log_q: Tensor | None = None
) -> float:
    """Mean over the rows that are there with their partner, one number at a time."""
    half, losses = len(rows) // 2, []
    for i in range(len(rows)):
        partner = i + half if i < half else i - half
        if not (there[i] and there[partner]):
            continue
        alike = {content[i], content[partner]}
        candidates = [j for j in range(len(rows)) if j == partner or (j != i and there[j] and content[j] not in alike)]
        scores = {
            j: scale * sum(float(x) * float(y) for x, y in zip(rows[i], rows[j], strict=True)) for j in candidates
        }
        scores = {j: s - (0.0 if log_q is None else float(log_q[j])) for j, s in scores.items()}
        losses.append(math.log(sum(math.exp(s) for s in scores.values())) - scores[partner])
    return sum(losses) / len(losses)


def test_the_loss_is_brute_force_without_the_row_itself() -> None:
    a, b = units(6, 5, 1), units(6, 5, 2)
    scale = torch.tensor(20.1, dtype=torch.float64)
    wanted = brute_force(torch.cat([a, b]), list(range(12)), [True] * 12, 20.1)
    found = view_loss(torch.cat([a, b]) * 3, torch.arange(12), ALL[:12], scale, [5])
    assert float(found) == pytest.approx(wanted, abs=1e-9)


def test_rows_of_the_same_item_and_duplicates_are_no_negatives_and_a_missing_view_is_no_row() -> None:
    rows = units(16, 6, 3)
    content = [0, 1, 2, 0, 4, 5, 6, 7, 1, 9, 10, 11, 4, 13, 14, 2]
    there = [k not in (1, 13) for k in range(16)]
    found = view_loss(rows, torch.tensor(content), torch.tensor(there), torch.tensor(7.0, dtype=torch.float64), [6])
    assert float(found) == pytest.approx(brute_force(rows, content, there, 7.0), abs=1e-9)


def test_blocks_of_rows_give_the_loss_and_gradient_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(5)
    vectors = torch.randn(14, 6, generator=draw, dtype=torch.float64, requires_grad=True)
    there, content = torch.tensor([True] * 12 + [False, True]), torch.arange(14) % 11
    scale, found = torch.tensor(7.0, dtype=torch.float64, requires_grad=True), {}
    for block in (256, 3, 1):
        monkeypatch.setattr(contrast, "BLOCK", block)
        loss = contrast.view_loss(vectors, content, there, scale, [3, 6])
        found[block] = [loss.detach(), *torch.autograd.grad(loss, (vectors, scale))]
    for block in (3, 1):
        torch.testing.assert_close(found[block], found[256], rtol=1e-12, atol=1e-12)


def test_prefixes_are_trained_as_vectors_of_their_own() -> None:
    rows = units(8, 6, 4)
    scale = torch.tensor(5.0, dtype=torch.float64)
    parts = [brute_force(F.normalize(rows[:, :size], dim=-1), list(range(8)), [True] * 8, 5.0) for size in (2, 4, 6)]
    found = view_loss(rows, torch.arange(8), ALL[:8], scale, [2, 4, 6])
    assert float(found) == pytest.approx(sum(parts) / 3, abs=1e-9)


def test_what_is_drawn_often_is_corrected_for() -> None:
    rows, log_q = units(8, 6, 4), torch.linspace(-3, -1, 8, dtype=torch.float64)
    wanted = brute_force(rows, list(range(8)), [True] * 8, 5.0, log_q)
    found = view_loss(rows, torch.arange(8), ALL[:8], torch.tensor(5.0, dtype=torch.float64), [6], log_q)
    assert float(found) == pytest.approx(wanted, abs=1e-9)
    assert wanted != pytest.approx(brute_force(rows, list(range(8)), [True] * 8, 5.0), abs=1e-3)


class Net(nn.Module):
    """Two views with dropout, and a scale, as an arm has them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.body = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Dropout(0.3), nn.Linear(9, 6)).to(dtype)
            self.other = nn.Linear(7, 6).to(dtype)
            self.unused = nn.Linear(2, 2).to(dtype)
            self.scale = nn.Parameter(torch.tensor(1.5, dtype=dtype))

    def views(self, x: Tensor) -> dict[str, Tensor]:
        return {"multimodal": self.body(x), "image": self.other(x)}

    def objective(self, views: dict[str, Tensor], content: Tensor) -> Tensor:
        there = torch.ones(len(content), dtype=torch.bool)
        losses = [view_loss(v, content, there, self.scale.exp(), [6]) for v in views.values()]
        return 0.9 * losses[0] + 0.1 * losses[1]


def gradients(net: Net) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sizes", [[16], [5, 5, 6], [1] * 16])
def test_gradient_caching_gives_the_loss_and_gradient_of_one_pass_with_dropout(sizes: list[int]) -> None:
    x, content = units(16, 7, 6), torch.arange(16)
    chunks = list(x.split(sizes))
    plain, net = Net(torch.float64), Net(torch.float64)
    torch.manual_seed(11)
    parts = [plain.views(chunk) for chunk in chunks]
    loss = plain.objective({view: torch.cat([part[view] for part in parts]) for view in parts[0]}, content)
    loss.backward()
    torch.manual_seed(11)
    held = [p for p in net.parameters() if p.requires_grad]
    value = cached(net.views, chunks, lambda views: net.objective(views, content), held)
    (2 * value).backward()
    assert float(value) == pytest.approx(float(loss), abs=1e-12)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(net)[name], 2 * gradient, rtol=1e-9, atol=1e-12)
    assert not gradients(net)["unused.weight"].any()


def _process(rank: int, world: int, port: int, dtype: torch.dtype, chunked: bool, queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    net = Net(dtype).eval()
    a, b = units(8, 7, 8, dtype), units(8, 7, 9, dtype)
    half = slice(rank * 8 // world, (rank + 1) * 8 // world)
    rows = torch.cat([a[half], b[half]])
    content = torch.cat([torch.arange(8)[half], torch.tensor([8, 9, 0, 11, 12, 13, 14, 15])[half]])
    parallel = nn.parallel.DistributedDataParallel(_Whole(net, content, chunked), find_unused_parameters=True)
    (parallel(rows) * world).backward()
    if rank == 0:
        queue.put({name: g.tolist() for name, g in gradients(net).items()})
    dist.barrier()
    dist.destroy_process_group()


class _Whole(nn.Module):
    """What DDP wraps: rows in, this process's share of the loss out."""

    def __init__(self, net: Net, content: Tensor, chunked: bool) -> None:
        super().__init__()
        self.net, self.content, self.chunked = net, content, chunked

    def forward(self, rows: Tensor) -> Tensor:
        objective = partial(self.net.objective, content=self.content)
        if self.chunked:
            return cached(self.net.views, list(rows.split(3)), objective, list(self.net.parameters()))
        return objective(self.net.views(rows))


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_two_processes_give_the_gradient_of_one(dtype: torch.dtype, tolerance: float, chunked: bool) -> None:
    context = mp.get_context("spawn")
    found = {}
    for world in (1, 2):
        queue, port = context.SimpleQueue(), _port()
        workers = [
            context.Process(target=_process, args=(rank, world, port, dtype, chunked, queue)) for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        found[world] = {name: torch.tensor(g, dtype=torch.float64) for name, g in queue.get().items()}
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
    one, two = (torch.cat([g.flatten() for g in found[world].values()]) for world in (1, 2))
    assert float(two.norm() / one.norm()) == pytest.approx(1.0, abs=tolerance)
    assert float((two - one).norm() / one.norm()) < 10 * tolerance
