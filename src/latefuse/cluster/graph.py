"""What the compiler of Kubeflow Pipelines lacks for an unrolled graph: nodes with names of their own, lists of inputs.

KFP 2.17 takes a list of artifacts only from a loop (`dsl.Collected`), and a loop has no names. So a component whose
parameter is `Input[List[Model]]` is written out for the number of inputs that a recipe has.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl, kubernetes

from latefuse.config import Config
from latefuse.config_profile import Profile, Resources, Step
from latefuse.sections import ConfigError

BASE_IMAGE = "python:3.11-slim"
NOT_YET = ("timeout_s", "node_selector", "tolerations", "shm", "volumes", "secrets", "config_maps")


def node(function: Callable[..., Any], name: str, /, **arguments: Any) -> Any:
    """A task of the current pipeline that runs `function` under `name`; lists among the arguments are spread."""
    lists = {key: list(value) for key, value in arguments.items() if isinstance(value, list)}
    component = dsl.component(
        spread(function, {key: len(value) for key, value in lists.items()}) if lists else function,
        base_image=BASE_IMAGE,
        install_kfp_package=False,
    )
    component.component_spec.name = component.name = name
    for key, values in lists.items():
        del arguments[key]
        arguments.update({f"{key}_{index}": value for index, value in enumerate(values)})
    return component(**arguments)


def spread(function: Callable[..., Any], lengths: Mapping[str, int]) -> Callable[..., Any]:
    """`function` with each parameter of `lengths` replaced by that many single inputs `<name>_<i>`.

    Its first statement gathers them again, so the body reads the list it was written for.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    arguments: list[ast.arg] = []
    for argument in definition.args.args:
        if argument.arg in lengths:
            kind = _element(argument)
            arguments += [ast.arg(f"{argument.arg}_{index}", kind) for index in range(lengths[argument.arg])]
        else:
            arguments.append(argument)
    definition.args.args = arguments
    gather = [ast.parse(f"{key} = [{', '.join(f'{key}_{i}' for i in range(n))}]").body[0] for key, n in lengths.items()]
    first = 1 if ast.get_docstring(definition) else 0
    definition.body[first:first] = gather
    source = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    where = f"<{definition.name} for {dict(lengths)}>"
    linecache.cache[where] = (len(source), None, source.splitlines(keepends=True), where)
    scope = dict(inspect.unwrap(function).__globals__)
    exec(compile(source, where, "exec", dont_inherit=True), scope)
    made: Callable[..., Any] = scope[definition.name]
    return made


def place(task: Any, step: Step, config: Config, image: Any) -> Any:
    """Give a task what the profile says about its step; a profile without an image runs on this machine."""
    resources = config.profile.resources(step)
    if resources.retries:
        task.set_retry(resources.retries, backoff_duration="10s", backoff_factor=2.0)
    if not config.profile.default.image:
        return task
    task.set_container_image(image if resources.image == config.profile.default.image else resources.image)
    _limits(task, resources)
    task.set_env_variable("LATEFUSE_EXPERIMENT", config.recipe.name)
    for name, value in sorted(resources.env.items()):
        task.set_env_variable(name, value)
    kubernetes.use_field_path_as_env(task, "LATEFUSE_PIPELINE_RUN", "metadata.labels['pipeline/runid']")
    return task


def check_supported(profile: Profile) -> None:
    """Raise ConfigError where a profile for a cluster asks for something that `place` can't give a task."""
    if not profile.default.image:
        return
    asked = [f"default.{field}" for field in NOT_YET if getattr(profile.default, field)]
    for step, own in profile.steps.items():
        # The service account is that of the whole run.
        asked += [f"steps.{step}.{field}" for field in (*NOT_YET, "service_account") if getattr(own, field)]
    if asked:
        raise ConfigError(f"profile {profile.name!r}: {', '.join(asked)}: not supported yet, leave it out")


def _limits(task: Any, resources: Resources) -> None:
    if resources.cpu:
        task.set_cpu_request(resources.cpu)
    if resources.memory:
        task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.gpu:
        task.set_accelerator_type(resources.gpu_kind or "nvidia.com/gpu").set_accelerator_limit(resources.gpu)


def _element(argument: ast.arg) -> ast.expr:
    """`Input[Model]` of a parameter that was declared as `Input[List[Model]]`."""
    kind = argument.annotation
    if not (isinstance(kind, ast.Subscript) and isinstance(kind.slice, ast.Subscript)):
        raise TypeError(f"{argument.arg}: expected Input[List[...]], got {ast.unparse(kind) if kind else 'nothing'}")
    return ast.Subscript(kind.value, kind.slice.slice, ast.Load())
