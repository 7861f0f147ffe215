"""Send a recipe's pipeline to a Kubeflow cluster: `make pipeline-submit`, `-upload`, `-schedule` and `-watch` call it
through the CLI."""

import argparse
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from latefuse.cluster import kfp_schedule, kfp_wait, submit
from latefuse.cluster.asked import tags_allowed
from latefuse.cluster.images import by_tag, refusal
from latefuse.cluster.kfp_cron import cron
from latefuse.cluster.local import arguments
from latefuse.cluster.node import EvaluateConfig
from latefuse.cluster.summary import table_of_run
from latefuse.config import Config
from pipelines.compile import compile_pipeline, with_defaults

STARTS_SHOWN = 3


def submit_pipeline(config: Config, options: argparse.Namespace) -> int:
    """Upload, start, print the link, wait where asked to; 0 unless the run we waited for has not succeeded."""
    config = _placed(config, options.image)
    server = _connected(options)
    given = _given(config)
    ids, version = _uploaded(server, config, given)
    run_id = submit.start(
        server,
        ids,
        experiment=options.experiment or config.recipe.name,
        name=options.run_name or version,
        arguments=given,
        service_account=config.profile.default.service_account,
    )
    page = server.link(f"runs/details/{run_id}")
    print(f"run {run_id}: {page}", flush=True)
    if not options.wait:
        return 0
    recipe = config.recipe
    settings = EvaluateConfig(evaluation=recipe.evaluation, tasks=recipe.variants(), fusion=recipe.fusion).digest
    return kfp_wait.follow(server, run_id, options.timeout, lambda cached: table_of_run(run_id, page, settings, cached))


def upload_pipeline(config: Config, options: argparse.Namespace) -> int:
    """Upload a version, print its link, start nothing."""
    config = _placed(config, options.image)
    server = _connected(options)
    (pipeline, made), version = _uploaded(server, config, _given(config))
    print(f"{version}: {server.link(f'pipelines/details/{pipeline}/version/{made}')}", flush=True)
    return 0


def schedule_pipeline(config: Config, options: argparse.Namespace) -> int:
    """Upload a version and start it by the clock; or stop what does so."""
    name, experiment = options.name or _name(config), options.experiment or config.recipe.name
    if options.stop:
        server = _connected(options)
        for one in kfp_schedule.stop(server, name, experiment, options.stop == "delete"):
            print(f"recurring run {name} ({one}): {options.stop}d; runs that it has started go on", flush=True)
        return 0
    times = cron(options.cron)
    config = _placed(config, options.image)
    server = _connected(options)
    if not options.replace:
        kfp_schedule.check_free(server, name, experiment)
    given = _given(config)
    ids, _ = _uploaded(server, config, given)
    wanted = kfp_schedule.Schedule(name, times, ids, given, config.profile.default.service_account)
    made, replaced = kfp_schedule.schedule(server, wanted, experiment)
    starts = ", ".join(f"{one:%a %Y-%m-%d %H:%M:%S}" for one in islice(times.after(datetime.now(UTC)), STARTS_SHOWN))
    print(f"recurring run {name} ({made}): {server.link(f'recurringrun/details/{made}')}")
    print(f"  starts ({times.text}, UTC): {starts} ...; one at a time, what was missed is not caught up on")
    for old in replaced:
        print(f"  instead of {old}, which is deleted")
    end = f"make pipeline-schedule STOP=disable (or STOP=delete) NAME={name} EXPERIMENT={experiment}"
    print(f"  to end it: {end}, or on its page", flush=True)
    return 0


def watch_run(options: argparse.Namespace) -> int:
    """Look at a run that was started earlier, as `submit --wait` does."""
    server = _connected(options)
    page = server.link(f"runs/details/{options.run}")
    print(f"run {options.run}: {page}", flush=True)
    return kfp_wait.follow(
        server, options.run, options.timeout, lambda cached: table_of_run(options.run, page, cached=cached)
    )


def _placed(config: Config, image: str | None) -> Config:
    """The configuration with an image given by hand: what the profile says of tasks holds only with one. Raises
    SubmitError where there is none, and for one that a tag names: the tag may be moved, the cluster's cache would not
    know.
    """
    if image:
        default = config.profile.default.model_copy(update={"image": image})
        config = config.model_copy(update={"profile": config.profile.model_copy(update={"default": default})})
    if not config.profile.default.image:
        raise submit.SubmitError(
            f"profile {config.profile.name!r} names no image and so runs on one machine only: take cpu-cluster, "
            "or a profile of your own with default.image"
        )
    if not tags_allowed() and (tags := by_tag(config.profile)):
        raise submit.SubmitError("\n".join(map(refusal, tags)))
    return config


def _connected(options: argparse.Namespace) -> submit.Server:
    return submit.connect(options.host, options.namespace, options.context, options.kfp_namespace)


def _uploaded(server: submit.Server, config: Config, given: Mapping[str, str]) -> tuple[tuple[str, str], str]:
    """The ids of pipeline and version, and the version's name."""
    name = _name(config)
    version = f"{name}-{config.digest}-{time.strftime('%Y%m%d-%H%M%S')}"
    with tempfile.TemporaryDirectory() as folder:
        package = with_defaults(compile_pipeline(config, Path(folder) / f"{name}.yaml"), given)
        return submit.upload(server, package, name, version), version


def _name(config: Config) -> str:
    return f"latefuse-{config.recipe.name}"


def _given(config: Config) -> dict[str, str]:
    """The parameters of a run: digests of code and raw data, and the image; nothing that is another one each time."""
    return {**arguments(config), "image": config.profile.default.image or ""}
