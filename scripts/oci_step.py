"""What a container runtime is told: the steps of a compiled pipeline, in containers that may write only to volumes.

`Graph` hands a step what Kubeflow's driver would: parameters, artifacts of the steps before it, where its own belong.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from latefuse.configfile import load
from pipelines.compile import specification

# What a step's pod can write: the image's own volume, the claims of the profile, what Kubeflow mounts for artifacts.
VOLUME_ROOTS = ("/tmp", "/workspace", "/models", "/minio")
SMALL = (
    "data.options.dishes=24", "data.options.users=6", "backbone.options.steps=4", "backbone.options.tower_steps=2",
    "train.max_steps=2", "fusion.search_rows=2", "fusion.late.steps=2", "fusion.late.max_rows=4",
    "evaluation.max_rows=4", "evaluation.max_new_tokens=4", "evaluation.bootstrap=20",
)  # fmt: skip
RUN, SOURCE = "image-check", "check"
METADATA = "/tmp/kfp/outputs/output_metadata.json"
PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")


@dataclass
class Graph:
    """A compiled pipeline without nested ones. done: what each finished step put out, by its name."""

    ir: Mapping[str, Any]
    done: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The steps as the compiler wrote them."""
        found: Mapping[str, Any] = self.ir["root"]["dag"]["tasks"]
        return found

    @cached_property
    def order(self) -> list[str]:
        """The names of the steps, none before one that it waits for."""
        before = {name: one.get("dependentTasks", ()) for name, one in self.tasks.items()}
        return list(TopologicalSorter(before).static_order())

    def started(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Command and environment of a step whose predecessors are done."""
        component = self.ir["components"][self.tasks[name]["componentRef"]["name"]]
        container = self.ir["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        given = json.dumps({"inputs": self._inputs(name), "outputs": self._outputs(name, component)})
        words = [given if word == "{{$}}" else word for word in [*container["command"], *container["args"]]]
        return words, {one["name"]: one["value"] for one in container["env"]} | {"LATEFUSE_PIPELINE_RUN": RUN}

    def _inputs(self, name: str) -> dict[str, Any]:
        asked = self.tasks[name].get("inputs", {})
        parameters = {key: self._value(source) for key, source in asked.get("parameters", {}).items()}
        artifacts = {}
        for key, source in asked.get("artifacts", {}).items():
            made = source["taskOutputArtifact"]
            artifacts[key] = self.done[made["producerTask"]]["artifacts"][made["outputArtifactKey"]]
        return {
            "parameterValues": {key: _filled(value, parameters) for key, value in parameters.items()},
            "artifacts": artifacts,
        }

    def _value(self, source: Mapping[str, Any]) -> Any:
        if "runtimeValue" in source:
            return source["runtimeValue"]["constant"]
        if "componentInputParameter" in source:
            asked = self.ir["root"]["inputDefinitions"]["parameters"][source["componentInputParameter"]]
            return asked.get("defaultValue", SOURCE)
        made = source["taskOutputParameter"]
        return self.done[made["producerTask"]]["parameterValues"][made["outputParameterKey"]]

    def _outputs(self, name: str, component: Mapping[str, Any]) -> dict[str, Any]:
        said = component.get("outputDefinitions", {})
        artifacts = {
            key: {"artifacts": [{"name": key, "type": one["artifactType"], "uri": f"minio://check/{name}/{key}"}]}
            for key, one in said.get("artifacts", {}).items()
        }
        parameters = {key: {"outputFile": f"/tmp/kfp/outputs/{key}"} for key in said.get("parameters", {})}
        return {"parameters": parameters, "artifacts": artifacts, "outputFile": METADATA}


def _filled(value: Any, parameters: Mapping[str, Any]) -> Any:
    """A constant with what it names of the step's own parameters."""
    return PLACEHOLDER.sub(lambda found: str(parameters[found[1]]), value) if isinstance(value, str) else value


def graph(root: Path) -> Graph:
    """The demo as `make pipeline-submit PROFILE=cpu-cluster` sends it, as small as its steps work."""
    config = load(root / "configs/recipes/demo.yaml", str(root / "configs/profiles/cpu-cluster.yaml"), SMALL)
    return Graph(specification(config)[0])


def spec(
    root: str, said: dict[str, Any], process: list[str], env: dict[str, str], user: int, volumes: dict[str, Path]
) -> dict[str, Any]:
    """An OCI runtime specification (v1.0): read-only root, no capability, no network, no new privileges.

    said: the image's own configuration; env is put over its environment. volumes: path inside -> folder here.
    """
    image_env = dict(line.split("=", 1) for line in said["Env"])
    devices = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
    ]
    binds = [
        {"destination": path, "type": "bind", "source": str(folder), "options": ["rbind", "rw", "nosuid", "nodev"]}
        for path, folder in volumes.items()
    ]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": True},
        "process": {
            "args": process,
            "cwd": said["WorkingDir"],
            "env": [f"{name}={value}" for name, value in {**image_env, **env}.items()],
            "user": {"uid": user, "gid": 0},
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "mounts": [*devices, *binds],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
    }
