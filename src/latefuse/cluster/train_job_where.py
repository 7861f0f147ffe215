"""Where the nodes of a TrainJob stand: what a profile says of it, checked, and handed to the node that waits for them.

Nothing heavy is imported here: the compiler of the pipeline loads this file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from latefuse.config_profile import Profile, Resources
from latefuse.config_trainjob import Nodes
from latefuse.sections import ConfigError, Section

WHERE = "LATEFUSE_TRAINJOB"
AGAIN = {"retries", "backoff_s", "backoff_factor", "backoff_max_s"}


class Where(Section):
    """What a profile says of TrainJobs, and what each of their nodes gets."""

    nodes: Nodes
    resources: Resources


def where(profile: Profile) -> Where:
    """What a profile says of the nodes of a training."""
    return Where(nodes=profile.trainjob, resources=profile.resources("finetune"))


def check(profile: Profile) -> None:
    """Raise ConfigError where a TrainJob of this profile could not work."""
    if profile.launcher != "trainjob":
        return
    nodes, driver = profile.resources("finetune"), profile.placed("finetune")
    wrong = []
    if not nodes.image:
        wrong.append("steps.finetune.image: name the image of the nodes")
    if not nodes.timeout_s:
        wrong.append("steps.finetune.timeout_s: say how long the training may take at most, in seconds")
    least = (nodes.timeout_s or 0) + profile.trainjob.queue_s + profile.trainjob.pending_s
    if driver.timeout_s and driver.timeout_s < least:
        wrong.append(f"driver.timeout_s: it must outlast queue (trainjob.queue_s) and training: {least:.0f} or more")
    own = profile.steps.get("finetune", Resources()).model_fields_set
    wrong += [f"steps.finetune.{key}: the driver is what is tried again, say it there" for key in sorted(own & AGAIN)]
    for name, one in (("steps.finetune", nodes), ("driver", driver)):
        if not mount(one.env.get("LATEFUSE_HOME", ""), one.volumes):
            wrong.append(f"{name}.env.LATEFUSE_HOME: it must lie on one of the volumes, {sorted(one.volumes)}")
    if not wrong and _claim(nodes.env, nodes.volumes) != _claim(driver.env, driver.volumes):
        wrong.append("LATEFUSE_HOME lies on another claim in steps.finetune than in driver: nothing would be handed on")
    if wrong:
        raise ConfigError(f"profile {profile.name!r}: " + "; ".join(wrong))


def of_environment() -> Where | None:
    """What the pipeline says of the nodes to a node that waits for them."""
    text = os.environ.get(WHERE)
    return Where.model_validate_json(text) if text else None


def mount(path: str, volumes: Mapping[str, str]) -> str:
    """The mount path of `volumes` below which `path` lies, the longest one; empty where it lies on none."""
    found = [mount for mount in volumes if path and Path(path).is_relative_to(mount)]
    return max(found, key=len, default="")


def _claim(env: Mapping[str, str], volumes: Mapping[str, str]) -> str:
    return volumes[mount(env["LATEFUSE_HOME"], volumes)]
