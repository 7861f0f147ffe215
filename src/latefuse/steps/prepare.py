"""Raw data in, a dataset out: checked, split once, searched for leaks, sealed with a fingerprint."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latefuse import usage
from latefuse.config_data import Data
from latefuse.data import mining, sources, splits, typed
from latefuse.data import plan as plans
from latefuse.data.dataset import BATCH, MANIFEST, Dataset, seal
from latefuse.data.errors import DataError
from latefuse.data.ingest import Ingest, Staged, ingest
from latefuse.data.leaks import Finding
from latefuse.data.near import Texts
from latefuse.data.quarantine import Quarantine
from latefuse.data.readings import make as readings
from latefuse.data.readings.make import Made
from latefuse.data.schema import SPLITS, TABLES
from latefuse.data.shards import Shards
from latefuse.data.sources.corrected import PERSON, Corrected
from latefuse.data.store import Intake, MediaStore
from latefuse.tracking import Tracker

PARTIAL = ".partial"


def run(
    data: Data,
    out: Path,
    tracker: Tracker,
    workdir: Path | None = None,
    cache: Path | None = None,
    shards: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write the dataset of `data` into `out` and return the result that also lies in `out/result.json`.

    workdir: where a generating source keeps its raw files; by default they vanish at the end. cache: where answers of
    models that read reviews or pictures are kept; by default nowhere. shards: the folders of all shards of this data,
    which are then read in place of the source. The same input gives the same bytes, sharded or not. Raises DataError
    for input or shards that can't be used, for more refusals than the budget, for leaks and where no pair can be mined;
    what was refused is then in `out/quarantine.parquet`, what leaks in `out/leaks.json`, and there is no manifest.
    """
    began = time.perf_counter()
    merged = Shards(shards, data) if shards else None
    with _workshop(out) as partial:
        source = merged or corrected(data, workdir or partial / "raw")
        staged, near, refused = _stage(source, data, out, partial)
        plan = plans.make(staged, near, data)
        if data.pairs is not None:
            plan.notes.append(mining.into(staged, plan.codes, plan.units, data))
        plan.notes += [*source.notes(), *_by_people(staged, plan)]
        plans.add_pairs(plan, staged, data)
        _stop_on_leaks(plan, data, out)
        for table in staged.rows:
            _write(staged, plan, table, out)
        _forget_strangers(out, staged)
        made = _read(data, plan, out, partial, cache)
        findings = {name: finding.as_dict() for name, finding in plan.findings.items()}
        told = {"source": data.source, "licence": data.licence, "seed": data.splits.seed, "notes": plan.notes}
        # What a shard has hashed is not read again.
        known = {ref: Path(ref).stem for ref in staged.refs} if merged else None
        manifest = seal(out, {**told, "quarantine": refused, "leaks": findings}, known)
    return _report(Dataset(out), manifest, made, tracker, out, time.perf_counter() - began)


@contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    """A folder for temporary files below `out`; a manifest of an earlier run goes first, so that `out` is never half
    true.
    """
    partial = out / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in (MANIFEST, "leaks.json", "result.json"):
        (out / name).unlink(missing_ok=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def corrected(data: Data, workdir: Path) -> Corrected:
    """The source that `data` names with its corrections. Raises ConfigError, DataError."""
    folders = [sources.resolve(path, "data.corrections") for path in data.corrections]
    return Corrected(sources.build(data, workdir), folders)


def _stage(source: Corrected | Shards, data: Data, out: Path, partial: Path) -> tuple[Staged, Any, dict[str, int]]:
    """Rows and media through the checks; then the join of near-duplicate texts. Raises DataError above the budget."""
    texts = Texts(partial / "texts", data.leaks.shingle, data.leaks.ignore_words)
    store: Intake
    with ExitStack() as stack:
        if isinstance(source, Shards):
            tables, store = source.tables(), source.media(out)
            mining.check(tables, data)
        else:
            raw = source.tables()
            mining.check(raw, data)
            store = stack.enter_context(MediaStore(source.source.root, out, data.limits, source.roots).opened())
            tables = typed.of_source(raw)
        quarantine = stack.enter_context(Quarantine(out / "quarantine.parquet"))
        staged = ingest(tables, Ingest(data, partial, store, texts, quarantine))
    quarantine.check(data.quarantine_budget)
    return staged, texts.near(data.leaks.jaccard), dict(sorted(quarantine.reasons.items()))


def _by_people(staged: Staged, plan: plans.SplitPlan) -> list[str]:
    """How many judgements by people each split has: who learns from them, and what is measured on them."""
    if "judgements" not in staged.rows:
        return []
    by = np.asarray(pq.read_table(staged.path("judgements"), columns=["source"])["source"].to_pylist()) == PERSON
    names = splits.NAMES[plan.codes["judgements"]["item"]][by]
    told = ", ".join(f"{(names == split).sum():,} {split}" for split in SPLITS)
    return [f"judgements by people: {told}"] if by.any() else []


def _stop_on_leaks(plan: plans.SplitPlan, data: Data, out: Path) -> None:
    failed = plans.blocking(plan, data)
    if not failed or data.leaks.on_leak == "report":
        return
    findings = {name: finding.as_dict() for name, finding in plan.findings.items()}
    (out / "leaks.json").write_text(json.dumps(findings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    raise DataError(
        "the splits leak:\n"
        + "\n".join(_told(name, finding) for name, finding in failed.items())
        + f"\nAll findings are in {out / 'leaks.json'}. Mend the source; or let latefuse draw the splits with "
        "data.splits.official=false, which keeps duplicates (not quotes) together; or accept it with "
        "data.leaks.on_leak=report."
    )


def _told(name: str, finding: Finding) -> str:
    return "\n".join([f"  {name}: {finding.detail}", *(f"    {example}" for example in finding.examples)])


def _write(staged: Staged, plan: plans.SplitPlan, table: str, out: Path) -> None:
    """The staged rows with their drawn columns, batch by batch."""
    schema, start = TABLES[table], 0
    with (
        pq.ParquetFile(staged.path(table)) as file,
        pq.ParquetWriter(out / f"{table}.parquet", schema, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(BATCH):
            drawn = plans.split_columns(plan, table, start, start + batch.num_rows)
            for name, values in drawn.items():
                place = schema.get_field_index(name)
                batch = batch.set_column(
                    place, schema.field(name), pa.array(np.asarray(values), schema.field(name).type)
                )
            writer.write_batch(batch)
            start += batch.num_rows


def _forget_strangers(out: Path, staged: Staged) -> None:
    """Remove tables and media that an earlier run left in `out` and this one does not name."""
    for table in TABLES:
        if table not in staged.rows:
            (out / f"{table}.parquet").unlink(missing_ok=True)
    for path in (out / "media").glob("??/*"):
        if f"media/{path.parent.name}/{path.name}" not in staged.refs:
            path.unlink()


def _read(data: Data, plan: plans.SplitPlan, out: Path, partial: Path, cache: Path | None) -> Made:
    """The table of readings beside the others, where the recipe asks for it. Raises DataError where one leaks."""
    if data.readings is None:
        return Made()
    made = readings.into(out, partial, data, cache)
    plan.notes += made.notes
    if made.finding is not None:
        plan.findings["readings"] = made.finding
        _stop_on_leaks(plan, data, out)
    return made


def _report(
    dataset: Dataset, manifest: Mapping[str, Any], made: Made, tracker: Tracker, out: Path, wall: float
) -> dict[str, Any]:
    """Tell the tracker, write `result.json`, print one line."""
    refused, rows = sum(manifest["quarantine"].values()), sum(manifest["rows"].values())
    leaking = [name for name, finding in manifest["leaks"].items() if not finding["passed"]]
    result = {
        "step": "prepare",
        "wall_s": round(wall, 3),
        **usage.peaks(),
        "inputs": {"source": manifest["source"]},
        "fingerprint": dataset.fingerprint,
        "rows": manifest["rows"],
        "quarantine": manifest["quarantine"],
        "leaks": leaking,
        "notes": manifest["notes"],
        **({"calls": made.calls, "spent": made.spent} if made.spent else {}),
        "run_id": tracker.run_id,
    }
    tracker.dataset(str(manifest["source"]), dataset.fingerprint, str(manifest["source"]))
    tracker.metrics(
        {"sys/wall_s": wall, "sys/peak_rss_gib": result["peak_rss_gib"], "data/refused": refused, "data/rows": rows}
    )
    tracker.artifact(out / MANIFEST)
    tracker.artifact(out / "quarantine.parquet")
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    told = ", ".join(f"{count:,} {name}" for name, count in manifest["rows"].items())
    leaks = f"leaks in {', '.join(leaking)}" if leaking else "no leaks"
    print(f"prepare: {told}; {refused} refused; {leaks}; {dataset.fingerprint[:12]} in {wall:.1f} s", flush=True)
    for spent in made.spent:
        print(f"prepare: {spent}", flush=True)
    for note in manifest["notes"]:
        print(f"prepare: note: {note}", flush=True)
    return result
