"""What a container runtime is told: a step of the compiled pipeline, in a container that may write only to volumes."""

import json
from pathlib import Path
from typing import Any

from latefuse.configfile import load
from pipelines.compile import specification

# What a step's pod can write: the image's own volume, the claims of the profile, what Kubeflow mounts for artifacts.
VOLUME_ROOTS = ("/tmp", "/workspace", "/models", "/minio")
SMALL = ("data.options.dishes=24", "data.options.users=6")
OUT = "/minio/check/prepare/out"


def executor(root: Path) -> tuple[list[str], dict[str, str], str]:
    """Command and environment of `prepare` as the compiled pipeline has them, and where its dataset will lie."""
    config = load(root / "configs/recipes/demo.yaml", str(root / "configs/profiles/cpu-cluster.yaml"), SMALL)
    ir, _ = specification(config)
    task = ir["root"]["dag"]["tasks"]["prepare"]
    container = ir["deploymentSpec"]["executors"]["exec-prepare"]["container"]
    dataset = {"name": "out", "type": {"schemaTitle": "system.Dataset"}, "uri": OUT.replace("/minio/", "minio://")}
    given = {
        "inputs": {
            "parameterValues": {
                "config": task["inputs"]["parameters"]["config"]["runtimeValue"]["constant"],
                "source": "check",
            }
        },
        "outputs": {
            "parameters": {"Output": {"outputFile": "/tmp/kfp/outputs/Output"}},
            "artifacts": {"out": {"artifacts": [dataset]}},
            "outputFile": "/tmp/kfp/outputs/output_metadata.json",
        },
    }
    words = [*container["command"], *container["args"]]
    filled = [json.dumps(given) if word == "{{$}}" else word for word in words]
    return filled, {one["name"]: one["value"] for one in container["env"]}, OUT


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
