"""Send a recipe's pipeline to a Kubeflow cluster: `make pipeline-submit` calls it through the CLI."""

import argparse
import tempfile
import time
from pathlib import Path

from latefuse.cluster import submit
from latefuse.cluster.local import arguments
from latefuse.config import Config
from pipelines.compile import compile_pipeline


def _with_image(config: Config, image: str | None) -> Config:
    """The configuration with an image given by hand: what the profile says of tasks holds only with one."""
    if not image:
        return config
    default = config.profile.default.model_copy(update={"image": image})
    return config.model_copy(update={"profile": config.profile.model_copy(update={"default": default})})


def submit_pipeline(config: Config, options: argparse.Namespace) -> int:
    """Upload, start, print the link, wait where asked to; 0 unless the run we waited for has not succeeded."""
    config = _with_image(config, options.image)
    image = config.profile.default.image
    if not image:
        raise submit.SubmitError(
            f"profile {config.profile.name!r} names no image and so runs on one machine only: take cpu-cluster, "
            "or a profile of your own with default.image"
        )
    kfp = submit.connect(options.host, options.namespace)
    name = f"latefuse-{config.recipe.name}"
    version = f"{name}-{config.digest}-{time.strftime('%Y%m%d-%H%M%S')}"
    with tempfile.TemporaryDirectory() as folder:
        package = compile_pipeline(config, Path(folder) / f"{name}.yaml")
        run_id = submit.start(
            kfp,
            package,
            pipeline=name,
            version=version,
            experiment=config.recipe.name,
            arguments={**arguments(config), "image": image},
            namespace=options.namespace,
            service_account=config.profile.default.service_account,
        )
    print(f"run {run_id}: {submit.link(options.host, run_id)}", flush=True)
    if not options.wait:
        return 0
    state = submit.wait(kfp, run_id, options.timeout)
    print(f"run {run_id}: {state}")
    return 0 if state == "SUCCEEDED" else 1
