"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from latefuse.cluster.fits import Fit
from latefuse.cluster.memory import GIB
from latefuse.cluster.plan import Node, Plan
from latefuse.config_prices import Figure, Gpu, Prices, Span


def text(plan: Plan) -> str:
    """Graph with machines, hours and money; memory; what is kept; what the cluster must have; every number's source."""
    config, prices = plan.config, plan.prices
    low, high = plan.elapsed
    money = [sum(node.money[k] for node in plan.nodes) for k in (0, 1)]
    total = f"{_span(low, high)}, side by side at best and one after the other at worst"
    if config.profile.default.image:
        total += f", {money[0]:,.0f} to {money[1]:,.0f} {prices.currency} without storage and waiting"
    parts = [
        f"{config.recipe.name} under {config.profile.name}, configuration {config.digest}, {len(plan.nodes)} nodes",
        _section("Nodes", _table(_NODES, (_node(node, plan) for node in plan.nodes)), total),
        _section("What takes the time", _table((), ((node.name, node.duration.why) for node in _distinct(plan.nodes)))),
        _memory(plan),
        _section("Kept", _kept(plan)),
        _needed(plan),
        _section("Reckoned with", _table((), _figures(plan))),
        _list("Notes", plan.notes),
        _list(f"{len(plan.problems)} problem(s)", plan.problems) if plan.problems else "No problem found.",
    ]
    return "\n\n".join(part for part in parts if part)


_NODES = ("node", "after", "image", "machine", "hours", "cost")
_FITS = (
    "one process of", "rows x tokens", "weights", "adapter", "gradients", "optimiser", "buffers", "kept", "passing",
    "needs", "has",
)  # fmt: skip


def _node(node: Node, plan: Plan) -> tuple[str, ...]:
    own = not plan.config.profile.default.image
    after = ", ".join(node.after) if len(node.after) < 4 else f"{len(node.after)} nodes"
    cost = "" if own else f"{node.money[0]:,.1f} to {node.money[1]:,.1f}"
    return (node.name, after or "-", _image(node.image), _machine(node, own), _hours(node), cost)


def _machine(node: Node, own: bool) -> str:
    """`2 x (8 x H100-80GB, 64 cores, 512Gi)`."""
    if own:
        return "this one"
    resources = node.resources
    parts = [f"{resources.gpu} x {resources.gpu_kind}"] if resources.gpu else []
    parts += [f"{resources.cpu} cores"] if resources.cpu else []
    parts += [resources.memory] if resources.memory else []
    one = ", ".join(parts)
    return f"{node.nodes} x ({one})" if node.nodes > 1 else one


def _image(image: str | None) -> str:
    """The last part of its name, and the digest's first digits."""
    if not image:
        return "-"
    name, _, digest = image.rpartition("/")[2].partition("@sha256:")
    return f"{name}@{digest[:8]}" if digest else name


def _hours(node: Node) -> str:
    return f"{node.duration.low / 3600:.2f} to {node.duration.high / 3600:.2f}"


def _span(low: float, high: float) -> str:
    if high < 5400:
        return f"{low / 60:.0f} to {high / 60:.0f} minutes"
    return f"{low / 3600:.1f} to {high / 3600:.1f} hours"


def _distinct(nodes: Sequence[Node]) -> list[Node]:
    """Of nodes that do the same under other seeds, the first."""
    return list({(node.step, node.duration.why, node.duration.low): node for node in reversed(nodes)}.values())[::-1]


def _memory(plan: Plan) -> str:
    if not plan.fits:
        return ""
    rows = [_fit(one) for one in plan.fits]
    first = plan.fits[0]
    learned = ", ".join(f"{one.node} {one.learns.numbers / 1e6:,.1f} M" for one in plan.fits)
    gpu = bool(plan.config.profile.resources("finetune").gpu)
    beside = "CUDA's context, collectives and gaps" if gpu else "what imports take"
    below = f"GiB, every row as long as it may be; needed: the sum and {beside}. Learned: {learned}."
    if first.memory.host:
        below += f" {first.memory.host / GIB:.2f} GiB of it lie in the machine's memory."
    return _section("Memory of training", _table(_FITS, rows), below)


def _fit(one: Fit) -> tuple[str, ...]:
    memory = one.memory
    parts = (
        memory.weights, memory.adapter, memory.gradients, memory.optimiser, memory.buffers, memory.saved,
        memory.passing, one.needed,
    )  # fmt: skip
    has = "-" if one.room is None else f"{one.room / GIB:.1f}"
    sizes = [_gib(part) for part in parts]
    return (one.node, f"{one.load.rows} x {one.load.tokens:,}", *sizes, has)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 100 * GIB else f"{size / GIB:.0f}"


def _kept(plan: Plan) -> str:
    lines = ["every node's output, until its part of the recipe, its code, its image or what goes into it changes"]
    if plan.kept:
        told = ", ".join(f"{task} {size / GIB:.1f} GiB" for task, size in plan.kept.items())
        lines.append(f"features of frozen towers, each medium encoded once, at most: {told}")
    home = plan.config.profile.resources("finetune").env.get("LATEFUSE_HOME")
    where = f" under {home}" if home else ""
    lines.append(f"the backbone, and checkpoints from which a retry goes on{where}")
    return "\n".join(f"  - {line}" for line in lines)


def _needed(plan: Plan) -> str:
    if not plan.needs:
        return ""
    return _section("The cluster must have", _table((), ((need.kind, need.name, need.why) for need in plan.needs)))


def _figures(plan: Plan) -> list[tuple[str, ...]]:
    """Every number of the file of prices that the plan used, with how it is known."""
    kinds = {node.resources.gpu_kind for node in plan.nodes if node.resources.gpu}
    found: list[tuple[str, Figure | Span]] = []
    for kind in sorted(kind for kind in kinds if kind in plan.prices.gpus):
        gpu = plan.prices.gpus[kind]
        found += [(f"{kind} {name}", getattr(gpu, name)) for name in Gpu.model_fields]
    found += [(name, getattr(plan.prices, name)) for name in Prices.model_fields if name not in ("currency", "gpus")]
    return [(name, _value(one), one.known, one.source) for name, one in found]


def _value(one: Figure | Span) -> str:
    return f"{one.low:g} to {one.high:g}" if isinstance(one, Span) else f"{one.value:g}"


def _section(title: str, body: str, below: str = "") -> str:
    return "\n".join(part for part in (title, body, f"  {below}" if below else "") if part)


def _list(title: str, lines: Sequence[str]) -> str:
    return _section(title, "\n".join(f"  - {line}" for line in lines)) if lines else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(row) for row in ([head, *rows] if head else rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    told = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([told[0], "  " + "  ".join("-" * width for width in widths), *told[1:]] if head else told)
