"""Write the compiled pipeline of one recipe under one profile: `make pipeline-compile` calls it through the CLI."""

import json
import tempfile
from collections import Counter
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
    text = path.read_text(encoding="utf-8")
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    documents = shared(list(yaml.safe_load_all(text)))
    path.write_text(head + yaml.safe_dump_all(documents, sort_keys=True), encoding="utf-8")
    return path


def shared(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A compiled pipeline in which nodes that run alike, on alike pods, are one component: the compiler writes one for
    each node, so that many seeds would be many copies. They are named by their function, nodes keep their names.
    """
    spec, *platforms = documents
    executors, components = spec["deploymentSpec"]["executors"], spec["components"]
    pods = [one["platforms"]["kubernetes"]["deploymentSpec"]["executors"] for one in platforms]
    names: dict[str, str] = {}
    used: Counter[str] = Counter()
    parts: list[dict[str, Any]] = [{} for _ in (components, executors, *pods)]
    for task in spec["root"]["dag"]["tasks"].values():
        component = dict(components[task["componentRef"]["name"]])
        label = component.pop("executorLabel")
        alike = [component, executors[label], *(pod.get(label) for pod in pods)]
        key = json.dumps(alike, sort_keys=True)
        if key not in names:
            function = executors[label]["container"]["args"][-1].replace("_", "-")
            used[function] += 1
            names[key] = name = function if used[function] == 1 else f"{function}-{used[function]}"
            component["executorLabel"] = f"exec-{name}"
            for part, one, kind in zip(parts, alike, ("comp", *["exec"] * (1 + len(pods))), strict=True):
                part.update({f"{kind}-{name}": one} if one is not None else {})
        task["componentRef"]["name"] = f"comp-{names[key]}"
    spec["components"], spec["deploymentSpec"]["executors"], *placed = parts
    for one, part in zip(platforms, placed, strict=True):
        one["platforms"]["kubernetes"]["deploymentSpec"]["executors"] = part
    return documents


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
