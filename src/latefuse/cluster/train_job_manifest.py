"""A TrainJob of Kubeflow Trainer 2.2 or newer, as the Kubernetes API takes it; everything beside it is a patch of the
runtime, whose trainer is the replicated job and the container `node`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from latefuse.cluster.train_job_where import Where
from latefuse.config_profile import Resources, Toleration
from latefuse.config_trainjob import Nodes

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
NODE = "node"
MANAGER = "latefuse"
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
JOB_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
NAME_LENGTH = 42  # with what JobSet and Job append, a pod's host name stays within 63


def job_name(node: str, work: str, run: str) -> str:
    """The same for every attempt of a pipeline's node, so that a retry finds what the last one left behind.

    node: its name in the graph. work: where its checkpoints lie. run: the pipeline's run.
    """
    digest = hashlib.sha256(f"{run}/{work}".encode()).hexdigest()[:10]
    plain = re.sub(r"[^a-z0-9]+", "-", node.lower()).strip("-")
    return f"{f'lf-{plain}'[: NAME_LENGTH - 11].rstrip('-')}-{digest}"


def manifest(
    where: Where,
    name: str,
    namespace: str,
    shape: tuple[int, int],
    command: Sequence[str],
    env: Mapping[str, str],
    owner: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """shape: nodes, processes of each. env: what every process is told beside the profile's own variables.

    owner: name and uid of the pod whose end by deletion takes the job along.
    """
    nodes, resources = where.nodes, where.resources
    reference = {"apiVersion": "v1", "kind": "Pod", "name": owner[0], "uid": owner[1]} if owner else None
    labels = {"app.kubernetes.io/name": "latefuse", "app.kubernetes.io/component": "finetune"}
    trainer = {
        "image": resources.image,
        "command": list(command),
        "env": _environment(resources, env),
        "numNodes": shape[0],
        "numProcPerNode": shape[1],
        "resourcesPerNode": _sizes(resources),
    }
    node_patch = {"name": NODE, "template": {"spec": {"template": _pod(nodes, resources, labels)}}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            **({"ownerReferences": [reference]} if reference else {}),
        },
        "spec": {
            **({"activeDeadlineSeconds": resources.timeout_s} if resources.timeout_s else {}),
            "runtimeRef": {"apiGroup": GROUP, "kind": nodes.runtime_kind, "name": nodes.runtime},
            "trainer": trainer,
            "runtimePatches": [
                {
                    "manager": MANAGER,
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node_patch]}}},
                }
            ],
        },
    }


def _pod(nodes: Nodes, resources: Resources, labels: Mapping[str, str]) -> dict[str, Any]:
    volumes, mounts = _volumes(resources)
    security = resources.security
    who = {"runAsNonRoot": security.non_root, "runAsUser": security.user, "runAsGroup": security.group}
    spec = {
        "serviceAccountName": nodes.service_account,
        "nodeSelector": dict(sorted(resources.node_selector.items())),
        "tolerations": [_toleration(one) for one in resources.tolerations],
        "imagePullSecrets": [{"name": name} for name in resources.pull_secrets],
        "volumes": volumes,
        "securityContext": {**_known(who), "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": NODE,
                "volumeMounts": mounts,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    # A side-car of a service mesh would never end, and so the job would not.
    mesh = {"sidecar.istio.io/inject": "false"}
    return {"metadata": {"labels": {**labels, **mesh}, "annotations": mesh}, "spec": _known(spec)}


def _volumes(resources: Resources) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    claims = sorted(set(resources.volumes.values()))
    volumes: list[dict[str, Any]] = [
        {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, claim in enumerate(claims)
    ]
    mounts = [
        {"name": f"claim-{claims.index(claim)}", "mountPath": path} for path, claim in sorted(resources.volumes.items())
    ]
    if resources.shm:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": resources.shm}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return volumes, mounts


def _environment(resources: Resources, more: Mapping[str, str]) -> list[dict[str, Any]]:
    plain = [{"name": name, "value": value} for name, value in sorted({**resources.env, **more}.items())]
    kinds = (("secretKeyRef", resources.secrets), ("configMapKeyRef", resources.config_maps))
    return plain + [
        {"name": variable, "valueFrom": {kind: {"name": name, "key": key}}}
        for kind, named in kinds
        for name, keys in sorted(named.items())
        for key, variable in sorted(keys.items())
    ]


def _sizes(resources: Resources) -> dict[str, dict[str, Any]]:
    requests = {"cpu": resources.cpu, "memory": resources.memory}
    limits = {"memory": resources.memory, resources.gpu_resource: resources.gpu or None}
    return _known({"requests": _known(requests), "limits": _known(limits)})


def _toleration(one: Toleration) -> dict[str, Any]:
    return _known({**one.model_dump(exclude={"seconds"}), "tolerationSeconds": one.seconds})


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not said."""
    return {key: value for key, value in values.items() if value not in (None, [], {})}
