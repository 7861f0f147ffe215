"""The command line. Only argparse and the standard library are imported before a command is known."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from latefuse import __version__, places

EXAMPLES = """\
examples:
  latefuse run configs/recipes/demo.yaml
  latefuse run configs/recipes/demo.yaml --set train.max_steps=20 --set seeds=[0,1]
  latefuse config configs/recipes/demo.yaml --profile local-long
  latefuse step prepare configs/recipes/demo.yaml --out work/dataset
  latefuse step backbone configs/recipes/demo.yaml --out work/backbone
  latefuse step finetune configs/recipes/demo.yaml --job image --dataset work/dataset --backbone work/backbone \\
      --out work/image
  latefuse plan configs/recipes/video_llava_7b.yaml --profile gpu
  latefuse compile configs/recipes/demo.yaml --profile cpu-cluster --out build/demo.yaml
  latefuse submit configs/recipes/demo.yaml --host http://localhost:8080 --wait
  latefuse schedule configs/recipes/demo.yaml --host http://localhost:8080 --cron "0 3 * * *"
  RUN=.latefuse/latest/notellm2
  latefuse embed $RUN/finetune-notellm2 --dataset $RUN/prepare --backbone $RUN/backbone --out vectors
  latefuse search vectors --item dish-0007
  latefuse search vectors --words "a red star" --adapter $RUN/finetune-notellm2 --backbone $RUN/backbone
  latefuse judge $RUN/finetune-judge --backbone $RUN/backbone --dataset $RUN/prepare \\
      --rulings $RUN/evaluate/rulings.json --pairs pairs.csv --media pictures --out verdicts
  latefuse review export verdicts --media pictures --out to-people
  latefuse review import to-people/export.json --dataset $RUN/prepare --out corrections
  latefuse replay
"""

ON_CLUSTER = """\
who you are (exactly one; values are never printed):
  KFP_TOKEN_FILE=/path   a bearer token, read anew for each request, so that a renewed one is taken
  KFP_TOKEN=...          the token itself
  KFP_COOKIE=...         the session cookie of the browser; KFP_COOKIE_FILE=cookies.txt
  (in a pod)             the projected token, /var/run/secrets/kubeflow/pipelines/token or KF_PIPELINES_SA_TOKEN_PATH
  --context NAME         a context of kubectl, through the Kubernetes API; without a host its current one

examples:
  latefuse submit configs/recipes/demo.yaml --host http://localhost:8080 --wait
  KFP_TOKEN_FILE=~/kfp.token latefuse submit configs/recipes/demo.yaml --host https://kubeflow.example/pipeline \\
      --namespace cooks --experiment nightly --run-name demo-7
  latefuse submit configs/recipes/demo.yaml --context staging --wait
  latefuse upload configs/recipes/demo.yaml --host http://localhost:8080
  latefuse schedule configs/recipes/demo.yaml --cron "0 3 * * *" --host http://localhost:8080
  latefuse schedule configs/recipes/demo.yaml --stop delete --host http://localhost:8080
  latefuse watch 3f0c9a52-... --host http://localhost:8080
"""
_HOST = os.environ.get("KFP_HOST", "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for a mistake in what was asked, 130 and 143 after a signal."""
    options = parser().parse_args(argv)
    from latefuse import commands

    return commands.call(options)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="latefuse",
        description="Fine-tune each modality on its own, fuse late, and prove what each modality is worth.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"latefuse {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe's whole pipeline on this machine")
    _recipe(run)
    run.add_argument("--fresh", action="store_true", help="run every step again, cached or not")

    _add_steps(commands)

    config = commands.add_parser("config", help="print the resolved configuration and its digest")
    _recipe(config)

    plan = commands.add_parser("plan", help="what a run would take: machines, memory, hours, money, what is missing")
    _recipe(plan, profile="cpu-cluster")
    plan.add_argument("--prices", type=Path, default=Path("configs/prices.yaml"), help="what it is reckoned with")
    plan.add_argument("--rows", type=_count, help="rows of a task's table; as many as training reads unless given")
    plan.add_argument("--host", default=_HOST, help="Kubeflow Pipelines that is asked whether it is there")
    plan.add_argument("--namespace", help="where secrets and claims are looked for; needs a kubeconfig")
    plan.add_argument("--context", help="of kubectl: the cluster where they are looked for; its current one by default")

    compiled = commands.add_parser("compile", help="write the pipeline as Kubeflow Pipelines reads it")
    _recipe(compiled, profile="cpu-cluster")
    compiled.add_argument("--out", type=Path, help="the file to write; build/<recipe>-<profile>.yaml by default")

    _add_cluster(commands)
    _add_vectors(commands)
    _add_verdicts(commands)

    replay = commands.add_parser("replay", help="send to MLflow what earlier runs could not")
    replay.add_argument(
        "folder", type=Path, nargs="?", default=places.home(), help="LATEFUSE_HOME, or .latefuse here, by default"
    )
    return top


MERGES = {"prepare_merge": "prepare_shard", "embed": "embed_shard"}


def _add_steps(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    group = commands.add_parser("step", help="run one step alone; also what containers and torchrun start")
    steps = group.add_subparsers(dest="step", required=True, metavar="STEP")
    about = {
        "prepare": "raw data to a dataset: schema, splits, quarantine, leak checks",
        "prepare_shard": "one of N equal parts of prepare, for a machine of its own",
        "prepare_merge": "all shards to the dataset that prepare would have written",
        "backbone": "build the demo base, or fetch and pin a named backbone",
        "finetune": "train the adapter of one arm under one seed",
        "fuse": "merge the separate adapters of one seed",
        "embed_shard": "the vectors of one of N equal parts of the recipe's catalogue",
        "embed": "all shards of the catalogue's vectors, with an index",
        "evaluate": "measure all arms and write the report",
    }
    for name, text in about.items():
        step = steps.add_parser(name, help=text, description=text)
        _recipe(step)
        step.add_argument("--out", type=Path, required=True, help="the folder of the outputs")
        if name in ("prepare_shard", "embed_shard"):
            step.add_argument("--shard", type=int, required=True, help="which part, from 0")
            step.add_argument("--shards", type=_count, required=True, help="of how many")
        elif name in MERGES:
            parts = f"outputs of `step {MERGES[name]}`"
            step.add_argument("--shards", type=Path, nargs="+", required=True, help=parts)
        if name not in ("prepare", "prepare_shard", "backbone", *MERGES):
            step.add_argument("--dataset", type=Path, required=True, help="the output of `step prepare`")
            step.add_argument("--backbone", type=Path, required=True, help="the output of `step backbone`")
        if name == "embed_shard":
            step.add_argument("--adapter", type=Path, required=True, help="an output of `step finetune`")
        if name == "finetune":
            step.add_argument("--job", required=True, help="a task of the recipe, or mixed, or mixed-wide")
        if name in ("finetune", "fuse"):
            step.add_argument("--seed", type=int, help="one of the recipe's seeds; its first by default")
        if name == "fuse":
            step.add_argument("--adapters", type=Path, nargs="+", required=True, help="outputs of `step finetune`")
        if name == "evaluate":
            step.add_argument("--finetuned", type=Path, nargs="+", required=True, help="outputs of `step finetune`")
            step.add_argument("--fused", type=Path, nargs="*", default=[], help="outputs of `step fuse`")


def _add_cluster(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = {
        "submit": "upload a recipe's pipeline to a Kubeflow cluster and start it",
        "upload": "upload a recipe's pipeline to a Kubeflow cluster, start nothing",
        "schedule": "have a Kubeflow cluster start a recipe's pipeline by the clock",
        "watch": "look at a run on a Kubeflow cluster: its steps, and the table at the end",
    }
    for name, text in about.items():
        one = commands.add_parser(
            name, help=text, description=text, epilog=ON_CLUSTER, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == "watch":
            one.add_argument("run", help="the run's id, as `submit` prints it")
        else:
            _recipe(one, profile="cpu-cluster")
            one.add_argument("--image", help="the image of the steps; the profile's by default")
        one.add_argument("--host", default=_HOST, help="Kubeflow Pipelines: http://localhost:8080; KFP_HOST by default")
        one.add_argument("--namespace", help="the namespace of a multi-user Kubeflow")
        one.add_argument("--context", help="of kubectl, instead of a host: goes through the Kubernetes API")
        one.add_argument("--kfp-namespace", default="kubeflow", help="with --context: where Kubeflow Pipelines lives")
        if name in ("submit", "schedule"):
            one.add_argument("--experiment", help="groups runs on Kubeflow's pages; the recipe's name by default")
        if name == "submit":
            one.add_argument("--run-name", help="recipe, digest of the configuration and time by default")
            one.add_argument("--wait", action="store_true", help="show the steps until it has ended, then the table")
        if name in ("submit", "watch"):
            one.add_argument("--timeout", type=float, default=24 * 3600, help="seconds to wait (default: a day)")
        if name == "schedule":
            one.add_argument("--cron", default="", help='"0 3 * * *" is every night at three, UTC')
            one.add_argument("--name", help="of the recurring run; latefuse-RECIPE by default")
            one.add_argument("--replace", action="store_true", help="take the place of one that has this name")
            one.add_argument("--stop", choices=("disable", "delete"), help="end the one of this name, make none")


def _add_vectors(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    embed = commands.add_parser("embed", help="embed a catalogue: vectors as Parquet, an index to search them")
    embed.add_argument("adapter", type=Path, help="the output of `step finetune` of an embedding task, or its adapter")
    embed.add_argument("--backbone", type=Path, required=True, help="the output of `step backbone`")
    embed.add_argument("--dataset", type=Path, required=True, help="the output of `step prepare`: its table items")
    embed.add_argument("--out", type=Path, required=True, help="the folder of vectors and index; a run goes on there")
    embed.add_argument("--index", choices=("flat", "hnsw", "ivf"), default="flat", help="exact, or approximate")
    embed.add_argument("--part", type=_count, default=4_096, help="items a part: what a killed run may lose")
    embed.add_argument("--batch-size", type=_count, default=64, help="items encoded at a time")

    search = commands.add_parser("search", help="nearest items of an index: by item, by words, by a photo")
    search.add_argument("index", type=Path, help="the output of `latefuse embed`")
    search.add_argument("--item", help="the id of an item of the index")
    search.add_argument("--words", default="", help="what to look for, in words")
    search.add_argument("--photo", type=Path, help="a picture file; together with --words both count")
    search.add_argument("--adapter", type=Path, help="the adapter that made the index; needed for words and photos")
    search.add_argument("--backbone", type=Path, help="its backbone; needed for words and photos")
    search.add_argument("-k", type=_count, default=10, help="how many items (default: 10)")


def _add_verdicts(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    judge = commands.add_parser("judge", help="judge a file of pairs: does each picture fit its text, by its rule?")
    judge.add_argument("adapter", type=Path, help="the output of `step finetune` of a judge, or its adapter")
    judge.add_argument("--backbone", type=Path, required=True, help="the output of `step backbone`")
    judge.add_argument("--dataset", type=Path, required=True, help="the output of `step prepare` that it learned from")
    judge.add_argument("--rulings", type=Path, required=True, help="rulings.json of `step evaluate`: thresholds")
    judge.add_argument("--pairs", type=Path, required=True, help="a table with id, image, text and, if several, task")
    judge.add_argument("--media", type=Path, required=True, help="the folder below which the pictures lie")
    judge.add_argument("--out", type=Path, required=True, help="the folder of the verdicts; a run goes on there")
    judge.add_argument("--why", action="store_true", help="also write a reason behind each verdict (slow)")
    judge.add_argument("--part", type=_count, default=256, help="pairs a part: what a killed run may lose")
    judge.add_argument("--batch-size", type=_count, default=32, help="pairs judged at a time")

    review = commands.add_parser("review", help="doubtful verdicts to people, and their corrections back")
    actions = review.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser("export", help="tasks for Label Studio and a gallery: abstained and doubtful verdicts")
    export.add_argument("verdicts", type=Path, help="the output of `latefuse judge`")
    export.add_argument("--media", type=Path, required=True, help="the folder below which the pictures lie")
    export.add_argument("--out", type=Path, required=True, help="the folder of tasks.json, labeling.xml, gallery.html")
    export.add_argument("--limit", type=_count, default=200, help="how many at most; all abstained ones are kept")
    export.add_argument("--media-prefix", help="where Label Studio finds the pictures; its local files by default")
    back = actions.add_parser("import", help="corrections as judgements that a recipe learns from")
    back.add_argument("votes", type=Path, help="the export of Label Studio, or a table with id and label")
    given = back.add_mutually_exclusive_group(required=True)
    given.add_argument("--dataset", type=Path, help="the dataset whose judgements were reviewed")
    given.add_argument("--verdicts", type=Path, help="the output of `latefuse judge` that was reviewed")
    back.add_argument("--media", type=Path, help="with --verdicts: the folder below which the pictures lie")
    back.add_argument("--out", type=Path, required=True, help="the folder of judgements.jsonl and its pictures")


def _count(text: str) -> int:
    """A whole number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _recipe(command: argparse.ArgumentParser, profile: str = "local") -> None:
    command.add_argument("recipe", type=Path, help="a file of configs/recipes, or your own")
    command.add_argument(
        "--profile", default=profile, help=f"a name of configs/profiles or a file (default: {profile})"
    )
    command.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the recipe: train.max_steps=20, tasks.image.adapter.r=8",
    )


if __name__ == "__main__":
    sys.exit(main())
