"""What a cluster must have before a pipeline of this profile can run there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from latefuse.config_profile import Profile, Resources, Step

TRAINJOB = "trainjobs.trainer.kubeflow.org"
# What a step that trains on many nodes asks of the API; deploy/trainjobs.yaml allows it.
RIGHTS = (
    f"create {TRAINJOB}",
    f"get {TRAINJOB}",
    f"delete {TRAINJOB}",
    "list pods",
    "list events",
    "get pods/log",
)


@dataclass(frozen=True, order=True)
class Need:
    """One thing by name. why: who asks for it.

    kind: secret, config map, claim, service account, namespace, kind of resource, ClusterTrainingRuntime,
    TrainingRuntime, or right: then the name is what kubectl would ask, `create trainjobs.trainer.kubeflow.org`, and
    `why` the service account that must be allowed to.
    """

    kind: str
    name: str
    why: str


def needs(profile: Profile) -> list[Need]:
    """Secrets, config maps, claims, accounts, kinds of resources, rights, each once, with the steps that ask."""
    if not profile.default.image:
        return []
    parts = {str(step): profile.resources(step) for step in get_args(Step)}
    if profile.launcher == "trainjob":
        parts["driver"] = profile.placed("finetune")
    asked: dict[tuple[str, str], list[str]] = {}
    for part, resources in parts.items():
        for kind, name in dict.fromkeys(_named(resources)):
            asked.setdefault((kind, name), []).append(part)
    found = [Need(kind, name, ", ".join(who)) for (kind, name), who in asked.items()]
    return sorted(found + (_of_trainjob(profile) if profile.launcher == "trainjob" else []))


def _of_trainjob(profile: Profile) -> list[Need]:
    nodes, account = profile.trainjob, profile.default.service_account
    found = [Need("kind of resource", TRAINJOB, "finetune"), Need(nodes.runtime_kind, nodes.runtime, "finetune")]
    if nodes.service_account and nodes.service_account != account:
        found.append(Need("service account", nodes.service_account, "the nodes of finetune"))
    return found + [Need("right", right, account) for right in RIGHTS if account]


def _named(resources: Resources) -> Iterator[tuple[str, str]]:
    yield from (("secret", name) for name in (*resources.secrets, *resources.pull_secrets))
    yield from (("config map", name) for name in resources.config_maps)
    yield from (("claim", name) for name in resources.volumes.values())
    if resources.service_account:
        yield "service account", resources.service_account
