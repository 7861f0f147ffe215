"""`prepare` of photos in one process against N shards and their merge, two processes at a time.

    python benchmarks/prepare_shards.py [shards ...]        # by default 1 2 4

Items with a photo of 500 x 375 and 40 words. Fails where a merged dataset has not the fingerprint of one process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latefuse import usage
from latefuse.config_data import Data
from latefuse.steps import prepare, prepare_merge, prepare_shard
from latefuse.tracking import Null

AT_A_TIME = 2


def generate(root: Path, items: int) -> None:
    """A manifest source: `items` photos, no two the same."""
    (root / "m").mkdir()
    draw = np.random.default_rng(0)
    base = draw.integers(0, 256, (375 // 5, 500 // 5, 3), np.uint8).repeat(5, 0).repeat(5, 1)
    with (root / "items.jsonl").open("w") as file:
        for number in range(items):
            base[:8, :32] = draw.integers(0, 256, 3, np.uint8)
            base[8:16, :32] = number % 256, number // 256 % 256, 7
            Image.fromarray(base).save(root / f"m/{number}.jpg", quality=85)
            text = " ".join(f"w{word}" for word in draw.integers(0, 5_000, 40))
            row = {"id": f"i{number}", "title": f"t{number}", "text": text, "images": [f"m/{number}.jpg"]}
            file.write(json.dumps(row) + "\n")


def recipe(root: Path) -> Data:
    """The data section over the generated files."""
    return Data(source="manifest", path=str(root), options={"tables": {"items": {"file": "items.jsonl"}}})


def one(root: Path, out: Path, what: str) -> dict[str, Any]:
    """One node in this process: "whole", "shard i n" or "merge n"."""
    kind, *numbers = what.split()
    wall, cpu = time.perf_counter(), time.process_time()
    if kind == "whole":
        result = prepare.run(recipe(root), out / "whole", Null())
    elif kind == "shard":
        shard, count = map(int, numbers)
        folder = out / f"{count}-{shard}"
        result = prepare_shard.run(recipe(root), shard, count, folder, Null(), out / f"work-{count}-{shard}")
    else:
        folders = [out / f"{numbers[0]}-{shard}" for shard in range(int(numbers[0]))]
        result = prepare_merge.run(recipe(root), folders, out / f"merged-{numbers[0]}", Null())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "wall": wall, "cpu": cpu, "gib": usage.own_peak() / usage.GIB, "fingerprint": result["fingerprint"]
    }  # fmt: skip


def _node(root: Path, out: Path, what: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", what, "--root", str(root), "--out", str(out)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--items", type=int, default=6_000)
    for hidden in ("--one", "--root", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one(Path(chosen.root), Path(chosen.out), chosen.one)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "raw", Path(folder)
        root.mkdir()
        generate(root, chosen.items)
        whole = _node(root, out, "whole")
        print(f"one process: {whole['wall']:.1f} s, {whole['cpu']:.1f} CPU-s, {whole['gib']:.2f} GiB", flush=True)
        same = True
        for count in chosen.shards:
            start = time.perf_counter()
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                nodes = [pool.submit(_node, root, out, f"shard {shard} {count}") for shard in range(count)]
                parts = [node.result() for node in nodes]
            merge = _node(root, out, f"merge {count}")
            same &= merge["fingerprint"] == whole["fingerprint"]
            each, most = [part["cpu"] for part in parts], max(part["gib"] for part in parts)
            print(
                f"{count} shards: {time.perf_counter() - start:.1f} s with starts; a shard {min(each):.1f} to "
                f"{max(each):.1f} CPU-s, {most:.2f} GiB; merge {merge['cpu']:.1f} CPU-s, {merge['wall']:.1f} s, "
                f"{merge['gib']:.2f} GiB",
                flush=True,
            )
    print("the same fingerprint" if same else "OTHER FINGERPRINTS")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
