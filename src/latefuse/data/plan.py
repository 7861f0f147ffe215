"""From staged integers to the split of every row, the numbers of the items, and the findings of all leak checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latefuse.config_data import Data
from latefuse.data import leaks, quotes, splits
from latefuse.data.errors import DataError
from latefuse.data.ingest import LONER, Staged
from latefuse.data.leaks import Finding
from latefuse.data.near import Near
from latefuse.data.schema import SPLITS, schemes

Array = np.ndarray[Any, Any]
BEHAVIOUR = ("events", "reviews")


@dataclass
class SplitPlan:
    """codes: per table and scheme the split code of each staged row. units: the item split of each name. number: per
    item. notes: what a reader should know.
    """

    codes: dict[str, dict[str, Array]] = field(default_factory=dict)
    units: Array = field(default_factory=lambda: np.zeros(0, np.int8))
    number: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    findings: dict[str, Finding] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def make(staged: Staged, near: Near, data: Data) -> SplitPlan:
    """Draw what the source did not give, then check all of it; pairs, which may still be mined, come by `add_pairs`.

    Raises DataError for item numbers that are not distinct.
    """
    plan = SplitPlan()
    keys = list(staged.names)
    _by_item(plan, staged, near, data, keys)
    _by_time(plan, staged, data)
    _numbers(plan, staged, data, keys)
    plan.findings |= quotes.findings(staged, plan.codes, data)
    for table in plan.codes:
        _note_gaps(plan, table, data)
    return plan


def _note_gaps(plan: SplitPlan, table: str, data: Data) -> None:
    """Say which split of a table has no row."""
    for scheme, codes in plan.codes[table].items():
        for code, name in enumerate(SPLITS):
            wanted = code == splits.TRAIN or (data.splits.valid if code == splits.VALID else data.splits.test)
            if wanted and not (codes == code).any():
                plan.notes.append(f"split_{scheme} of {table}: no row of {len(codes):,} is {name}")


def _by_item(plan: SplitPlan, staged: Staged, near: Near, data: Data, keys: list[str]) -> None:
    tables = [table for table in staged.rows if "unit" in staged.rows[table]]
    drawn = splits.uniform(keys, data.splits.seed)
    if not tables:
        plan.units = splits.cut(drawn, data.splits.valid, data.splits.test)
        return
    units = np.concatenate([staged.column(table, "unit") for table in tables])
    told = np.concatenate([staged.column(table, "given_item") for table in tables])
    given = np.full(len(keys), splits.NONE, np.int8)
    np.maximum.at(given, units, told)
    text_unit, content, user = (np.array(part) for part in (staged.text_unit, staged.media_content, staged.media_unit))
    group = splits.groups(len(keys), np.concatenate([_same(content, user), text_unit[near.edges()].reshape(-1, 2)]))
    given = splits.with_valid(given, drawn, group, data.splits.valid, data.splits.test)
    codes = plan.units = splits.by_item(drawn, given, group, data.splits.valid, data.splits.test)
    for table in tables:
        plan.codes[table] = {"item": codes[staged.column(table, "unit")]}
    sizes = np.bincount(group)
    if sizes.max(initial=0) > max(10, 0.5 * min(data.splits.valid or 1, data.splits.test or 1) * len(keys)):
        least = (
            f"{sizes.max():,} of {len(keys):,} units share media or text and so one split; is there a stand-in picture?"
        )
        plan.notes.append(least)

    def unit_name(unit: int) -> str:
        return f"row {keys[unit][1:]!r}" if keys[unit].startswith(LONER) else f"item {keys[unit]!r}"

    paths = dict(staged.contents.values())
    rows_code = np.where(told >= 0, told, codes[units])
    plan.findings["unit"] = _one_split(units, rows_code, given, unit_name)
    plan.findings["media"] = leaks.shared(content, user, codes, paths.__getitem__, unit_name, "media")
    plan.findings["text"] = leaks.near_texts(near, text_unit, codes, unit_name, data.leaks.jaccard)


def _same(content: Array, unit: Array) -> Array:
    """(m, 2) edges that link all units which use the same content."""
    if not len(content):
        return np.zeros((0, 2), np.int64)
    order = np.argsort(content, kind="stable")
    content, unit = content[order], unit[order]
    again = np.flatnonzero((content[1:] == content[:-1]) & (unit[1:] != unit[:-1]))
    return np.stack([unit[again], unit[again + 1]], axis=1).astype(np.int64)


def _one_split(units: Array, rows_code: Array, given: Array, unit_name: leaks.Namer) -> Finding:
    """Rows about one item that the source itself put into train and into test."""
    moved = (rows_code == splits.TRAIN) & (given[units] == splits.VALID)
    return leaks.shared(
        units, np.arange(len(units)), np.where(moved, splits.VALID, rows_code), unit_name, lambda _: "a row", "items"
    )


def add_pairs(plan: SplitPlan, staged: Staged, data: Data) -> None:
    """The splits of the table pairs, given or mined: by pair, and by item for pairs that link no two splits.

    Raises DataError where the source gave a split by item that is not the one of both items.
    """
    if "pairs" not in staged.rows:
        return
    keys, valid, test = list(staged.names), data.splits.valid, data.splits.test
    a, b, given = (staged.column("pairs", name) for name in ("a", "b", "given_pair"))
    codes = splits.by_pair(a, b, keys, given, data.splits.seed, valid, test)
    plan.findings["pair"] = leaks.pair_disjoint(a, b, codes, len(keys))
    items, told = splits.of_both(a, b, plan.units), staged.column("pairs", "given_item")
    if len(wrong := np.flatnonzero((told != splits.NONE) & (told != items))):
        one = f"{keys[a[wrong[0]]]!r} and {keys[b[wrong[0]]]!r}"
        raise DataError(
            f"pairs: split_item of {len(wrong):,} rows is not the split of both items, first of {one}; leave the "
            "column out of pairs and, where it is yours, give it to the items"
        )
    plan.codes["pairs"] = {"pair": codes, "item": items}
    _note_gaps(plan, "pairs", data)
    if crossing := int((items == splits.NONE).sum()):
        plan.notes.append(
            f"split_item of pairs: {crossing:,} of {len(items):,} rows link items of different splits and are in none"
        )


def _by_time(plan: SplitPlan, staged: Staged, data: Data) -> None:
    """One global cut for events and reviews; leave-one-out per user, where a review never trains on a held-out
    event: one that its user wrote before it is in no split.
    """
    tables = [table for table in BEHAVIOUR if table in staged.rows]
    if not tables:
        return
    cuts = splits.time_cuts(staged.column(tables[0], "ts"), data.splits.valid, data.splits.test)
    for table in tables:
        user, ts = staged.column(table, "user"), staged.column(table, "ts")
        left = splits.leave_one_out(user, ts, staged.column(table, "given_loo"))
        if table != tables[0]:
            first = plan.codes[tables[0]]["loo"], staged.column(tables[0], "user"), staged.column(tables[0], "ts")
            left = splits.not_before(left, user, ts, (first[1], first[2], first[0]))
            had = staged.column(table, "item"), (first[1], staged.column(tables[0], "item"), first[0])
            early = left < splits.first_codes(user, *had)
            left = np.where(early, splits.NONE, left).astype(np.int8)
            if early.any():
                plan.notes.append(
                    f"split_loo of {table}: {int(early.sum()):,} of {len(left):,} rows are in none, written before the "
                    f"held-out row of {tables[0]} that they are about"
                )
            plan.findings[f"held/{table}"] = leaks.held_pairs(user, had[0], left, had[1])
        by_time = splits.by_time(ts, staged.column(table, "given_time"), cuts)
        plan.codes[table] = {"time": by_time, "loo": left}
        plan.findings[f"time/{table}"] = leaks.time_order(ts, by_time)
        plan.findings[f"loo/{table}"] = leaks.user_order(user, ts, left)


def _numbers(plan: SplitPlan, staged: Staged, data: Data, keys: list[str]) -> None:
    """The ids that models see: the source's own if every item has one, else drawn; both are probed against the
    events.
    """
    if "items" not in staged.rows:
        return
    number = staged.column("items", "number")
    if (number < 0).any():
        number = splits.numbers(splits.uniform(keys[: staged.items], f"number:{data.splits.seed}"))
    elif len(np.unique(number)) != len(number):
        raise DataError("items: the column 'number' holds a value twice; leave it out and numbers are drawn")
    plan.number = number
    if "events" in staged.rows:
        user, item, ts = (staged.column("events", name) for name in ("user", "item", "ts"))
        plan.findings["number/order"] = leaks.number_order(number, item, ts)
        plan.findings["number/next"] = leaks.next_number(number, user, item, ts)


def blocking(plan: SplitPlan, data: Data) -> dict[str, Finding]:
    """The findings that fail `prepare`; media, texts and demos only where the recipe splits by item."""
    only_items = {"unit", "media", "text", "demos"}
    failed = {name: finding for name, finding in plan.findings.items() if not finding.passed}
    return {name: finding for name, finding in failed.items() if name not in only_items or data.splits.scheme == "item"}


def split_columns(plan: SplitPlan, table: str, start: int, stop: int) -> dict[str, Any]:
    """The drawn columns of the rows [start, stop) of a table, by column name."""
    columns: dict[str, Any] = {
        f"split_{scheme}": splits.NAMES[plan.codes[table][scheme][start:stop]] for scheme in schemes(table)
    }
    if table == "items":
        columns["number"] = plan.number[start:stop]
    return columns
