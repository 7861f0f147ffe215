"""The command line: what it prints, how quick its help is, how it says what is wrong."""

import os
import subprocess
import sys
import time

import pytest
import yaml

from latefuse import cli, tracking

RECIPE = "tests/golden/recipe.yaml"


def run(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "latefuse", *arguments], capture_output=True, text=True, timeout=120, **more
    )


def test_help_is_quick_and_has_examples():
    best = float("inf")
    for _ in range(3):
        start = time.process_time(), os.times().children_user + os.times().children_system
        done = run("--help")
        best = min(best, os.times().children_user + os.times().children_system - start[1])
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert best < 0.5, f"{best:.2f} CPU-seconds"


@pytest.mark.parametrize("step", ["prepare", "backbone", "finetune", "fuse", "evaluate"])
def test_every_step_has_help(step, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["step", step, "--help"])
    assert left.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    heavy = "('torch', 'mlflow', 'kfp', 'pydantic')"
    code = f"import sys, latefuse.cli as c; c.parser(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_config_shows_what_an_override_does(capsys):
    assert cli.main(["config", RECIPE, "--set", "train.max_steps=7", "--set", "seeds=[3,4]"]) == 0
    text = capsys.readouterr().out
    shown = yaml.safe_load(text)["recipe"]
    assert {task["train"]["max_steps"] for task in shown["tasks"].values()} == {7}
    assert shown["seeds"] == [3, 4]
    assert text.startswith("# digest: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", RECIPE, "--set", "train.max_stepz=7"], "max_steps"),
        (["config", RECIPE, "--set", "nonsense"], "key.path=value"),
        (["config", "configs/recipes/no-such.yaml"], "no such file"),
        (["config", RECIPE, "--profile", "lokal"], "local"),
        (
            ["step", "finetune", RECIPE, "--job", "image", "--dataset", "gone", "--backbone", "gone", "--out", "x"],
            "gone",
        ),
        (["replay", "no/such/folder"], "no such folder"),
    ],
)
def test_mistakes_are_told_in_words(arguments, words, capsys):
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_a_backbone_that_is_not_there_is_told_in_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    missing = str(tmp_path / "nope")
    arguments = ["step", "backbone", RECIPE, "--set", f"backbone.name={missing}", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert f"latefuse: backbone {missing!r}: no such folder" in err
    assert "Traceback" not in err


def test_an_unknown_job_names_those_there_are(tmp_path, capsys):
    common = ["--dataset", str(tmp_path), "--backbone", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(["step", "finetune", RECIPE, "--job", "sound", *common]) == 2
    assert "image, video, text, mixed, mixed-wide" in capsys.readouterr().err


def test_outside_a_checkout_the_pipeline_is_looked_for_in_vain(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\ndata: {source: demo}\ntasks: {image: {modality: image}}\n")
    (tmp_path / "local.yaml").write_text("name: local\n")
    done = run("compile", "recipe.yaml", "--profile", "local.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "root of a latefuse checkout" in done.stderr


def test_replay_of_nothing_says_so(tmp_path, capsys):
    assert cli.main(["replay", str(tmp_path)]) == 0
    assert "nothing to send" in capsys.readouterr().out


def test_replay_looks_where_everything_is_kept(tmp_path, monkeypatch, capsys):
    home = tmp_path / "elsewhere"
    home.mkdir()
    monkeypatch.setenv("LATEFUSE_HOME", str(home))
    assert cli.main(["replay"]) == 0
    assert f"nothing to send under {home}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kept", "there", "status", "words"),
    [
        (0, False, 0, "a.jsonl: sent\n"),
        (3, True, 1, "a.jsonl: 3 record(s) kept\n"),
        (3, False, 1, "a.jsonl: sent but for 3 line(s) that can't be read"),
        (None, True, 0, "a.jsonl: left to its process"),
    ],
)
def test_replay_tells_what_became_of_each_file(kept, there, status, words, tmp_path, monkeypatch, capsys):
    spool = tmp_path / "a.jsonl"
    if there:
        spool.touch()
    monkeypatch.setattr(tracking, "replay", lambda folder: {str(spool): kept})
    assert cli.main(["replay", str(tmp_path)]) == status
    assert words in capsys.readouterr().out
