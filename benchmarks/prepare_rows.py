"""`prepare` on item rows without media: rows per second and peak memory as the rows grow.

    python benchmarks/prepare_rows.py [rows ...]        # by default 125000 250000 500000 1000000

Each size runs in a process of its own. Fails where 1,000,000 rows need 2 GiB or more, or where the time per row of the
largest size is more than 1.5 times that of the smallest.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from latefuse import usage
from latefuse.config_data import Data
from latefuse.data import sources
from latefuse.sections import Section
from latefuse.steps import prepare
from latefuse.tracking import Null

SIZES = (125_000, 250_000, 500_000, 1_000_000)
WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "ek", "il", "omo", "uri", "ast", "erin")]
WORDS = [one + two for one in WORDS for two in WORDS]
NEAR_EVERY = 1_000


class Options(Section):
    """How many rows."""

    rows: int


class Generated:
    """Items with a title and 40 words of text; one in a thousand is the one before with a word changed."""

    name = "generated"
    Options = Options

    def __init__(self, root: Path, options: Options) -> None:
        self.root = root
        self.rows = options.rows

    def tables(self) -> Mapping[str, Callable[[], Iterator[dict[str, Any]]]]:
        """One table."""
        return {"items": self.items}

    def items(self) -> Iterator[dict[str, Any]]:
        """The rows."""
        draw = random.Random(0)
        words: list[str] = []
        for number in range(self.rows):
            words = [*words[1:], "other"] if number % NEAR_EVERY == 1 else draw.choices(WORDS, k=40)
            text = " ".join(words)
            yield {"id": f"item-{number}", "title": f"a dish of {words[0]}", "text": text, "attributes": {"n": number}}


def one(rows: int) -> dict[str, Any]:
    """Prepare `rows` rows and measure."""
    sources.SOURCES["generated"] = "prepare_rows:Generated"
    sys.path.insert(0, str(Path(__file__).parent))
    data = Data(source="generated", path=".", options={"rows": rows})
    with tempfile.TemporaryDirectory() as out:
        wall, cpu = time.perf_counter(), time.process_time()
        prepare.run(data, Path(out), Null())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rows": rows, "wall_s": wall, "cpu_s": cpu, "peak_gib": usage.own_peak() / usage.GIB}


def main() -> int:
    """Measure all sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one(chosen.rows[0])))
        return 0
    results = []
    print(f"{'rows':>10} {'wall s':>8} {'cpu s':>8} {'rows/s':>9} {'us/row':>8} {'peak GiB':>9}")
    for rows in chosen.rows:
        told = subprocess.run(
            [sys.executable, __file__, "--one", str(rows)], check=True, capture_output=True, text=True
        )
        result = json.loads(told.stdout.splitlines()[-1])
        results.append(result)
        speed = f"{rows / result['wall_s']:>9,.0f} {result['cpu_s'] / rows * 1e6:>8.1f}"
        print(
            f"{rows:>10,} {result['wall_s']:>8.1f} {result['cpu_s']:>8.1f} {speed} {result['peak_gib']:>9.2f}",
            flush=True,
        )
    growth = (results[-1]["cpu_s"] / results[-1]["rows"]) / (results[0]["cpu_s"] / results[0]["rows"])
    print(f"CPU time per row, largest against smallest: {growth:.2f}")
    return int(growth > 1.5 or any(result["peak_gib"] >= 2 for result in results))


if __name__ == "__main__":
    sys.exit(main())
