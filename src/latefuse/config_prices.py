"""What a plan is reckoned with: speed, memory and price of machines, each number with where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from latefuse.sections import ConfigError, Section, checked, nearest


class Figure(Section):
    """A number and how it is known: `measured` on what, `published` where, `assumed` why."""

    value: float = Field(ge=0)
    known: Literal["measured", "published", "assumed"]
    source: str = Field(min_length=3)


class Span(Section):
    """The same for a range."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)
    known: Literal["measured", "published", "assumed"]
    source: str = Field(min_length=3)


class Gpu(Section):
    """One GPU. memory_gib: usable; tflops: 10^12 operations/s in half precision, without sparsity; gb_s: 10^9 bytes/s
    to its memory; hour: price with its share of the machine around it."""

    memory_gib: Figure
    tflops: Figure
    tflops_float32: Figure
    gb_s: Figure
    hour: Figure


class Prices(Section):
    """configs/prices.yaml. core: of a CPU. Rates are of one core."""

    currency: str
    gpus: dict[str, Gpu]
    core_hour: Figure
    core_gflops: Figure
    utilisation: Span
    bandwidth_share: Span
    row_us: Figure
    stored_picture_ms: Figure
    picture_ms: Figure
    clip_s: Figure
    download_mb_s: Figure
    start_s: Figure
    optimiser_step_s: Figure
    demo_base_s: Figure
    import_gib: Figure
    text_tokens: Figure
    answer_tokens: Figure
    evaluated_rows: Figure

    def gpu(self, kind: str | None) -> Gpu:
        """Raises ConfigError for a kind that has no entry."""
        if kind is None or kind not in self.gpus:
            told = f"gpu_kind {kind!r} has no entry{nearest(kind, self.gpus)}" if kind else "gpu without gpu_kind"
            raise ConfigError(f"{told}: name one of the file of prices ({', '.join(self.gpus)}), or add it there")
        return self.gpus[kind]


def load_prices(path: Path) -> Prices:
    """Raises ConfigError that names the file and the key."""
    try:
        return checked(Prices, yaml.safe_load(path.read_text(encoding="utf-8")) or {}, path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file of prices") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
