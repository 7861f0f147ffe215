"""What a profile says of a step becomes what Kubernetes is told of its pod; all of it stands in the compiled pipeline.

Names of secrets, config maps and claims go in, never a value of them.
"""

from __future__ import annotations

from typing import Any

from kfp import kubernetes

from latefuse.cluster import train_job_where
from latefuse.config import Config
from latefuse.config_profile import Profile, Resources, Step
from latefuse.sections import ConfigError

RUN_ID = "metadata.labels['pipeline/runid']"


def place(task: Any, step: Step, config: Config, image: Any) -> Any:
    """Give a task what the profile says about its step; a profile without an image runs on this machine.

    image: the pipeline's parameter, which tasks with the profile's default image take.
    """
    resources = config.profile.placed(step)
    if resources.retries:
        task.set_retry(
            resources.retries,
            backoff_duration=f"{resources.backoff_s}s",
            backoff_factor=resources.backoff_factor,
            backoff_max_duration=f"{resources.backoff_max_s}s",
        )
    if not config.profile.default.image:
        return task
    task.set_container_image(image if resources.image == config.profile.default.image else resources.image)
    _sizes(task, resources)
    _environment(task, step, resources, config)
    _pod(task, resources)
    return task


def check_supported(profile: Profile) -> None:
    """Raise ConfigError where a profile for a cluster asks for something that `place` can't give a task."""
    if not profile.default.image:
        return
    parts = {**{f"steps.{step}": own for step, own in profile.steps.items()}, "driver": profile.driver}
    asked = [f"{part}.service_account" for part, own in parts.items() if own.service_account]
    train_job_where.check(profile)
    if asked:
        raise ConfigError(
            f"profile {profile.name!r}: {', '.join(asked)}: Kubeflow gives a whole run one service account, "
            "name it under default"
        )


def _sizes(task: Any, resources: Resources) -> None:
    if resources.cpu:
        task.set_cpu_request(resources.cpu)
    if resources.memory:
        task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.gpu:
        task.set_accelerator_type(resources.gpu_resource).set_accelerator_limit(resources.gpu)
    if resources.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=resources.shm)


def _environment(task: Any, step: Step, resources: Resources, config: Config) -> None:
    task.set_env_variable("LATEFUSE_EXPERIMENT", config.recipe.name)
    for name, value in sorted(resources.env.items()):
        task.set_env_variable(name, value)
    # The run's id is another one in every run: as a parameter it would make every look-up in the cache a miss.
    kubernetes.use_field_path_as_env(task, "LATEFUSE_PIPELINE_RUN", RUN_ID)
    if step == "finetune" and config.profile.launcher == "trainjob":
        task.set_env_variable(
            train_job_where.WHERE, train_job_where.where(config.profile).model_dump_json(exclude_unset=True)
        )
    for name, keys in sorted(resources.secrets.items()):
        kubernetes.use_secret_as_env(task, secret_name=name, secret_key_to_env=dict(sorted(keys.items())))
    for name, keys in sorted(resources.config_maps.items()):
        kubernetes.use_config_map_as_env(task, config_map_name=name, config_map_key_to_env=dict(sorted(keys.items())))


def _pod(task: Any, resources: Resources) -> None:
    security = resources.security
    kubernetes.set_security_context(
        task, run_as_user=security.user, run_as_group=security.group, run_as_non_root=security.non_root
    )
    if resources.timeout_s:
        kubernetes.set_timeout(task, resources.timeout_s)
    for label, value in sorted(resources.node_selector.items()):
        kubernetes.add_node_selector(task, label, value)
    for one in resources.tolerations:
        kubernetes.add_toleration(task, one.key, one.operator, one.value, one.effect, one.seconds)
    for path, claim in sorted(resources.volumes.items()):
        kubernetes.mount_pvc(task, claim, path)
    if resources.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(resources.pull_secrets))
