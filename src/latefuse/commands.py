"""What the commands of the command line do; each loads only what it needs."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from latefuse.config import Config, Job
from latefuse.configfile import load
from latefuse.errors import UserError


class UsageError(UserError, ValueError):
    """Something asked for on the command line that can't be done; the message says what to do instead."""


def call(options: argparse.Namespace) -> int:
    """Run the chosen command; mistakes are told in one line on stderr, bugs keep their traceback."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": run,
        "step": step,
        "config": config,
        "plan": plan,
        "compile": compile_,
        "submit": on_cluster,
        "upload": on_cluster,
        "schedule": on_cluster,
        "watch": on_cluster,
        "embed": embed,
        "search": search,
        "judge": judge,
        "review": review,
        "replay": replay,
    }
    try:
        return commands[options.command](options)
    except UserError as error:
        print(f"latefuse: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as signal:
        print("\nlatefuse: stopped; the runs are closed as KILLED, nothing is left running", file=sys.stderr)
        return 143 if "SIGTERM" in signal.args else 130


def run(options: argparse.Namespace) -> int:
    """The whole pipeline on this machine."""
    settings = _load(options)
    graph = _pipelines("late_fusion")
    from latefuse.cluster import local
    from latefuse.cluster.summary import closing_words

    try:
        done = local.run(settings, graph.build, fresh=options.fresh)
    except local.RunError as error:
        print(f"latefuse: {error} The failing step says why above.", file=sys.stderr)
        return 1
    print(closing_words(done))
    return 0


def step(options: argparse.Namespace) -> int:
    """One step alone."""
    settings = _load(options)
    from latefuse.cluster import node

    recipe, out = settings.recipe, options.out
    if options.step == "prepare":
        node.prepare(recipe.data.model_dump_json(), out)
        return 0
    if options.step == "prepare_shard":
        from latefuse.cluster.sources import source_digest
        from latefuse.data.sources import raw_digest

        source = f"{source_digest('prepare_shard')} {raw_digest(recipe.data)}"
        node.prepare_shard(recipe.data.model_dump_json(), options.shard, options.shards, out, source=source)
        return 0
    if options.step == "prepare_merge":
        node.prepare_merge(recipe.data.model_dump_json(), options.shards, out)
        return 0
    if options.step == "embed":
        node.embed(_catalogue(settings), [_exists(path) for path in options.shards], out)
        return 0
    if options.step == "backbone":
        node.backbone(recipe.backbone.model_dump_json(), out)
        return 0
    given = (str(options.dataset), str(options.backbone))
    for folder in (options.dataset, options.backbone):
        _exists(folder)
    if options.step == "finetune":
        from latefuse.cluster import train_job_where
        from latefuse.cluster.sources import source_digest

        job = _job(settings, options.job, options.seed)
        name = node.node_name(job, recipe.seeds)
        where = train_job_where.where(settings.profile) if job.launcher == "trainjob" else None
        node.finetune(job.model_dump_json(), *given, out, node=name, source=source_digest("finetune"), where=where)
    elif options.step == "fuse":
        seed = recipe.seeds[0] if options.seed is None else options.seed
        part = node.FuseConfig(fusion=recipe.fusion, tasks=recipe.tasks, seed=seed)
        node.fuse(part.model_dump_json(), *given, [str(_exists(path)) for path in options.adapters], out)
    elif options.step == "embed_shard":
        from latefuse.cluster.sources import source_digest

        text, place = _catalogue(settings), (options.shard, options.shards)
        node.embed_shard(text, *given, str(_exists(options.adapter)), *place, out, source_digest("embed"))
    else:
        whole = node.EvaluateConfig(evaluation=recipe.evaluation, tasks=recipe.variants(), fusion=recipe.fusion)
        lists = [[str(_exists(path)) for path in paths] for paths in (options.finetuned, options.fused)]
        node.evaluate(whole.model_dump_json(), *given, lists[0], lists[1], out)
    return 0


def config(options: argparse.Namespace) -> int:
    """The resolved configuration."""
    import yaml

    settings = _load(options)
    print(f"# digest: {settings.digest}")
    print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    return 0


def plan(options: argparse.Namespace) -> int:
    """What a run would take; 1 where something stands in its way."""
    settings = _load(options)
    pipelines = _pipelines("compile")
    from latefuse.cluster import asked
    from latefuse.cluster.plan import make_plan
    from latefuse.cluster.plan_text import text
    from latefuse.config_prices import load_prices

    made = make_plan(settings, load_prices(options.prices), pipelines.specification, asked.tags_allowed(), options.rows)
    absent, unchecked = asked.missing_there(made.needs, options.host, options.namespace, options.context)
    made.problems += absent
    made.notes += unchecked
    print(text(made))
    return 1 if made.problems else 0


def compile_(options: argparse.Namespace) -> int:
    """The pipeline as a file."""
    settings = _pinned(_load(options))
    path = options.out or Path("build") / f"{settings.recipe.name}-{settings.profile.name}.yaml"
    written = _pipelines("compile").compile_pipeline(settings, path)
    print(f"{written}: {written.stat().st_size / 1000:.0f} kB")
    return 0


def on_cluster(options: argparse.Namespace) -> int:
    """The pipeline on a cluster: started, uploaded, started by the clock, or looked at."""
    if options.command == "schedule" and not (options.cron or options.stop):
        raise UsageError('when? --cron "0 3 * * *" (CRON=...) is every night at three, UTC; --stop ends a schedule')
    if options.command == "watch" and not options.run:
        raise UsageError("which run? latefuse watch ID, or RUN=ID; `submit` has printed it")
    settings = None if options.command == "watch" else _pinned(_load(options))
    graph = _pipelines("submit")
    from latefuse.cluster.submit import SubmitError

    try:
        if settings is None:
            return int(graph.watch_run(options))
        return int(getattr(graph, f"{options.command}_pipeline")(settings, options))
    except SubmitError as error:
        print(f"latefuse: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlatefuse: stopped; what the cluster has got so far stays there", file=sys.stderr)
        return 130


def embed(options: argparse.Namespace) -> int:
    """A catalogue as vectors and an index."""
    for folder in (options.adapter, options.backbone, options.dataset):
        _exists(folder)
    from latefuse import places
    from latefuse.serving import index
    from latefuse.serving.vectors import Embedder

    made = Embedder(options.backbone, options.adapter, options.dataset, places.cache() / "features")
    header = made.header
    batches = made.batches(options.part)
    told = index.write_vectors(
        options.out, batches, lambda items: made.vectors(items, options.batch_size), header, made.items
    )
    index.build(options.out, header, options.index)
    left_out = f", {made.left_out:,} without a field to read left out" if made.left_out else ""
    kept = f", {told['kept']:,} kept from an earlier run" if told["kept"] else ""
    print(f"{options.out}: {told['written']:,} vectors written{kept}{left_out}; search them with `latefuse search`")
    return 0


def search(options: argparse.Namespace) -> int:
    """The nearest items of an index."""
    asked = [name for name in ("item", "words", "photo") if getattr(options, name)]
    if not asked or (options.item and len(asked) > 1):
        raise UsageError("say what to look for: --item ID, or --words and --photo, alone or together")
    from latefuse.serving.index import Index

    made = None
    if options.adapter is not None or not options.item:
        if options.adapter is None or options.backbone is None:
            raise UsageError("--adapter and --backbone are needed to turn words or a photo into a vector")
        from latefuse.serving.vectors import Embedder

        made = Embedder(_exists(options.backbone), _exists(options.adapter))
    opened = Index(_exists(options.index), made.digest if made is not None else None)
    if options.item:
        found = opened.search(opened.vector(options.item), options.k, without=[options.item])
    else:
        assert made is not None
        found = opened.search(made.query(options.words, options.photo), options.k)
    for number, (item, score) in enumerate(found[0], start=1):
        print(f"{number:>3}  {score:+.4f}  {item}")
    return 0


def judge(options: argparse.Namespace) -> int:
    """A file of pairs as verdicts."""
    for path in (options.adapter, options.backbone, options.dataset, options.media):
        _exists(path)
    if not options.pairs.is_file():
        raise UsageError(f"{options.pairs}: no such file")
    from latefuse.serving.verdicts import PairJudge, judge_file

    made = PairJudge(options.backbone, options.adapter, options.dataset, options.rulings, options.media)
    told = judge_file(made, options.pairs, options.out, options.part, options.batch_size, options.why)
    kept = f", {told['kept']:,} kept from an earlier run" if told["kept"] else ""
    counts = f"{told.get('judged', 0):,} judged, {told.get('abstained', 0):,} of them left to people"
    print(
        f"{options.out}: {counts}, {told.get('refused', 0):,} refused{kept}; see verdicts.csv, refused.csv and audit.db"
    )
    return 0


def review(options: argparse.Namespace) -> int:
    """Verdicts to people, corrections back."""
    from latefuse.review import people

    out, media = options.out, options.media
    if options.action == "export":
        folder = _exists(options.verdicts)
        chosen = people.export(folder, _exists(media), out, options.limit, options.media_prefix)
        print(f"{out}: {chosen:,} verdicts to look at: gallery.html; tasks.json and labeling.xml for Label Studio")
        return 0
    if options.dataset is not None:
        found = people.corrections_of_dataset(options.votes, _exists(options.dataset), out)
    elif media is None:
        raise UsageError("--verdicts needs --media, the folder below which the pictures lie")
    else:
        found = people.corrections_of_verdicts(options.votes, _exists(options.verdicts), _exists(media), out)
    print(f"{out}: {found.told()}")
    return 0


def replay(options: argparse.Namespace) -> int:
    """What MLflow has missed."""
    from latefuse import tracking

    kept = tracking.replay(_exists(options.folder))
    for path, count in kept.items():
        print(f"{path}: {_told(count, Path(path).exists())}")
    if not kept:
        print(f"nothing to send under {options.folder}")
    return 1 if any(kept.values()) else 0


def _told(kept: int | None, there: bool) -> str:
    if kept is None:
        return "left to its process, which still runs"
    if not kept:
        return "sent"
    return f"{kept} record(s) kept" if there else f"sent but for {kept} line(s) that can't be read, which are set aside"


def _load(options: argparse.Namespace) -> Config:
    return load(options.recipe, options.profile, options.sets)


def _pinned(settings: Config) -> Config:
    """The configuration with its images by digest, as far as they are known."""
    from latefuse.cluster.images import resolved

    return settings.model_copy(update={"profile": resolved(settings.profile)})


def _exists(path: Path) -> Path:
    if not path.exists():
        raise UsageError(f"{path}: no such folder")
    return path


def _job(settings: Config, name: str, seed: int | None) -> Job:
    jobs = settings.jobs()
    wanted = settings.recipe.seeds[0] if seed is None else seed
    for job in jobs:
        if (job.name, job.seed) == (name, wanted):
            return job
    known = ", ".join(dict.fromkeys(job.name for job in jobs))
    seeds = ", ".join(map(str, settings.recipe.seeds))
    raise UsageError(f"--job {name} --seed {wanted}: the recipe has the jobs {known} under the seeds {seeds}")


def _catalogue(settings: Config) -> str:
    if settings.recipe.catalogue is None:
        raise UsageError(
            f"recipe {settings.recipe.name!r} has no section `catalogue`: {{}} is one, see docs/embeddings.md"
        )
    return settings.recipe.catalogue.model_dump_json()


def _pipelines(module: str) -> ModuleType:
    """A module of the checkout's `pipelines` folder, which is no part of the installed package."""
    if not Path("pipelines/late_fusion.py").exists():
        raise UsageError(f"no pipelines/late_fusion.py in {Path.cwd()}: run this from the root of a latefuse checkout")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(f"pipelines.{module}")
