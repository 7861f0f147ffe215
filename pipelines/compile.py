"""Write the compiled pipeline of one recipe under one profile: `make pipeline-compile` calls it through the CLI."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from latefuse.cluster.place import check_supported
from latefuse.config import Config
from pipelines.late_fusion import build


def compile_pipeline(config: Config, path: Path) -> Path:
    """Compile to `path` (YAML); the same configuration always gives the same bytes. Raises ConfigError."""
    check_supported(config.profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build(config), str(path))
    return path


def with_defaults(path: Path, values: Mapping[str, str]) -> Path:
    """Write `values` into a compiled pipeline as defaults of its parameters, so that people can start it from the page
    of an uploaded version without typing digests."""
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    known = documents[0]["root"]["inputDefinitions"]["parameters"]
    for name, value in values.items():
        known[name].update(defaultValue=value, isOptional=True)
    path.write_text(yaml.safe_dump_all(documents, sort_keys=True), encoding="utf-8")
    return path


def specification(config: Config) -> tuple[dict[str, Any], int]:
    """The compiled pipeline without what is Kubernetes' own, and the bytes of all of it. Raises ConfigError."""
    with tempfile.TemporaryDirectory() as folder:
        path = compile_pipeline(config, Path(folder) / "ir.yaml")
        return next(iter(yaml.safe_load_all(path.read_text(encoding="utf-8")))), path.stat().st_size
