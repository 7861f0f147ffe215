"""The screened search finds what the plain one finds, on vectors of every kind, and its bound holds."""

from __future__ import annotations

import pytest
import torch

from latefuse.evaluation import nearest, screen
from latefuse.evaluation.nearest import Best, scan
from latefuse.evaluation.screen import Screen

pytestmark = pytest.mark.skipif(not screen.usable(), reason="this machine's torch has no 8-bit products")

N, D = 3_000, 96


def _noise(rows: int, draw: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, D, generator=draw)


def _flat(rows: int, draw: torch.Generator) -> torch.Tensor:
    """Of rank 20: the basis leaves nothing out."""
    return torch.randn(rows, 20, generator=draw) @ torch.randn(20, D, generator=torch.Generator().manual_seed(77))


def _steep(rows: int, draw: torch.Generator) -> torch.Tensor:
    return _noise(rows, draw) * torch.arange(1, D + 1) ** -0.8 + 0.1


def _outlying(rows: int, draw: torch.Generator) -> torch.Tensor:
    """One component thirty times as large, as in many a language model's states."""
    return _noise(rows, draw) * torch.where(torch.arange(D) == 5, 30.0, 1.0)


def _of_any_length(rows: int, draw: torch.Generator) -> torch.Tensor:
    return _noise(rows, draw) * torch.logspace(-3, 3, rows)[torch.randperm(rows, generator=draw)][:, None]


def _in_families(rows: int, draw: torch.Generator) -> torch.Tensor:
    heads = torch.randn(40, D, generator=torch.Generator().manual_seed(78))
    return heads[torch.randint(0, 40, (rows,), generator=draw)] + 0.2 * _noise(rows, draw)


def _repeated(rows: int, draw: torch.Generator) -> torch.Tensor:
    return _noise(rows, draw)[torch.randint(0, max(rows // 3, 1), (rows,), generator=draw)]


def _collapsed(rows: int, draw: torch.Generator) -> torch.Tensor:
    return torch.ones(rows, D) + 1e-4 * _noise(rows, draw)


def _with_zeros(rows: int, draw: torch.Generator) -> torch.Tensor:
    return _noise(rows, draw) * (torch.arange(rows) % 3 > 0)[:, None]


KINDS = (_noise, _flat, _steep, _outlying, _of_any_length, _in_families, _repeated, _collapsed, _with_zeros)
UNIT = (_noise, _flat, _steep, _outlying, _in_families, _repeated)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small pool is many blocks."""
    for module, name, value in (
        (screen, "ROWS", 512), (screen, "SEEDS", 200), (screen, "QUERIES", 16), (screen, "PART", 64),
        (screen, "WAITING", 900),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def same(mine: tuple[torch.Tensor, torch.Tensor], plain: tuple[torch.Tensor, torch.Tensor], full: torch.Tensor) -> None:
    """The scores agree to float32's rounding, and every row found has the score that it is said to have."""
    scale = float(full[full.isfinite()].abs().max()) + 1e-20
    torch.testing.assert_close(mine[0] / scale, plain[0] / scale, rtol=0, atol=2e-6)
    there = mine[1] >= 0
    torch.testing.assert_close(
        (full.gather(1, mine[1].clamp_min(0)) / scale)[there], (mine[0] / scale)[there], rtol=0, atol=2e-6
    )
    for row, kept in zip(mine[1].tolist(), there.sum(1).tolist(), strict=True):
        assert len(set(row[:kept])) == kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [None, 32])
def test_it_finds_what_the_plain_search_finds(kind, width) -> None:
    draw = torch.Generator().manual_seed(1)
    pool, queries = kind(N, draw), kind(40, draw)
    made = Screen(pool, width)
    for k in (1, 10):
        same(made.top_k(queries, k), scan(queries, pool, k), queries @ pool.T)


@pytest.mark.parametrize("kind", UNIT)
def test_on_unit_vectors_it_really_screens(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no test of the plain search: that one is not called, and few pairs are scored."""
    draw = torch.Generator().manual_seed(2)
    pool, queries = (torch.nn.functional.normalize(kind(rows, draw), dim=1) for rows in (N, 40))
    made, wanted, scored = Screen(pool), scan(queries, pool, 10), []

    def counted(a: torch.Tensor, b: torch.Tensor, query: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        scored.append(len(query))
        return nearest.pair_scores(a, b, query, index)

    monkeypatch.setattr(screen, "pair_scores", counted)
    monkeypatch.setattr(screen, "scan", lambda *_: pytest.fail("it gave up"))
    monkeypatch.setattr(screen, "GIVE_UP", 1.0)
    same(made.top_k(queries, 10), wanted, queries @ pool.T)
    assert 400 <= sum(scored) < 40 * N / 8


@pytest.mark.parametrize("kind", KINDS)
def test_no_pair_is_above_its_bound(kind) -> None:
    """The bound of every pair that passes, and, with a floor below everything, that every pair does pass."""
    draw = torch.Generator().manual_seed(3)
    pool, queries = kind(N, draw), kind(16, draw)
    made = Screen(pool, 32)
    rounded, true = screen._Rounded.of(queries, made.basis), (queries.double() @ pool.double().T)
    for block in range(len(made.worst)):
        best = Best(16, 1, queries, true.float().amin(1) - 1)
        place, query, bound, _ = made._passing(rounded, block, best)
        rows = min(512, N - block * 512)
        assert len(place) == rows * 16
        assert bool((bound >= true[query, made.order[place]].float()).all())


@pytest.mark.parametrize("width", [None, 64])
def test_what_is_excluded_is_not_found(width) -> None:
    draw = torch.Generator().manual_seed(4)
    pool = torch.nn.functional.normalize(_in_families(N, draw), dim=1)
    queries, own = pool[:50], torch.stack([torch.arange(50), torch.arange(50)])
    near = scan(queries, pool, 3)[1]
    banned = torch.cat([own, torch.stack([torch.arange(50), near[:, 1]])], 1)
    found = Screen(pool, width).top_k(queries, 10, banned)
    full = queries @ pool.T
    full[banned[0], banned[1]] = -torch.inf
    same(found, full.topk(10), full)
    assert not set(zip(*banned.tolist(), strict=True)) & {(r, c) for r in range(50) for c in found[1][r].tolist()}


def test_many_neighbours_of_few_rows_and_no_queries() -> None:
    draw = torch.Generator().manual_seed(5)
    pool, queries = _noise(100, draw), _noise(3, draw)
    same(Screen(pool).top_k(queries, 60), scan(queries, pool, 60), queries @ pool.T)
    assert [part.shape for part in Screen(pool).top_k(queries[:0], 4)] == [(0, 4), (0, 4)]
    assert torch.equal(Screen(pool[:1]).top_k(queries, 1)[1], torch.zeros(3, 1, dtype=torch.int64))


def test_a_pool_row_that_is_not_finite_is_an_error() -> None:
    pool = _noise(50, torch.Generator().manual_seed(6))
    pool[33, 2] = torch.nan
    with pytest.raises(ValueError, match="pool row 33 is not finite"):
        Screen(pool)


def test_where_8_bit_products_overflow_the_plain_search_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that adds them in 16 bits, had the codes one bit more."""
    draw = torch.Generator().manual_seed(7)
    pool, queries = _noise(N, draw), _noise(20, draw)
    made = Screen(pool)
    plain = screen._products
    monkeypatch.setattr(screen, "_products", lambda *args: plain(*args).clamp_max(150))
    screen.usable.cache_clear()
    try:
        assert not screen.usable()
        found = made.top_k(queries, 5)
    finally:
        screen.usable.cache_clear()
    assert torch.equal(found[1], scan(queries, pool, 5)[1])
