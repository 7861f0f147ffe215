"""The installation in the images, run with a pip that only takes notes, and what both Dockerfiles promise."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import source_digest

INDEX = "https://index.example/cpu"
PIP = """#!/bin/sh
echo "$*" >> calls
case "$*" in *"$REFUSED"*) exit 1 ;; esac
"""
COMPILERS = re.compile(r"\b(gcc|g\+\+|clang|build-essential|nvcc|cuda-compiler|ninja-build|python3-dev)\b")


def instructions(kind):
    """[(instruction, rest)] of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in Path(f"docker/Dockerfile.{kind}").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages(kind):
    """The instructions stage by stage; the first entry is what stands before the first FROM."""
    found = [[]]
    for instruction in instructions(kind):
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def extras(kind):
    [line] = [rest for name, rest in instructions(kind) if name == "RUN" and "install.sh" in rest]
    return line.partition("install.sh")[2].split()


@pytest.fixture
def install(tmp_path):
    """`install(index, refused)` -> exit status and the calls of pip, of which those that hold `refused` fail."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, text in (("pip", PIP), ("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    for name in ("constraints.txt", "pyproject.toml", "docker/requirements.py", "docker/install.sh"):
        shutil.copy(name, tmp_path)

    def call(index, refused="nothing at all", *wanted):
        (tmp_path / "calls").write_text("")
        environment = {"PATH": f"{stubs}{os.pathsep}{os.defpath}", "TORCH_INDEX": index, "REFUSED": refused}
        done = subprocess.run(["sh", "install.sh", *(wanted or ["llm"])], cwd=tmp_path, env=environment, timeout=30)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return call


def test_torch_comes_from_the_cpu_index_and_what_is_there_is_checked(install):
    status, calls = install(INDEX)
    assert status == 0
    assert INDEX in calls[0]
    assert "torch==" in calls[0]
    assert "check" in calls


def test_without_an_index_torch_is_left_to_the_package_index(install):
    status, calls = install("")
    assert status == 0
    assert not [call for call in calls if "--index-url" in call]


def test_kfp_comes_last_and_without_its_dependencies(install):
    _, calls = install("")
    assert re.fullmatch(r"install --no-deps kfp==[\d.]+", calls[-1])
    assert calls.index("check") == len(calls) - 2


@pytest.mark.parametrize("refused", [INDEX, "check", "requirements.txt", "kfp=="])
def test_a_failing_installation_fails_the_build(install, refused):
    status, calls = install(INDEX, refused)
    assert status != 0
    assert refused in calls[-1]


def test_an_unknown_extra_fails_before_pip_is_called(install):
    assert install("", "nothing at all", "nonsense") == (1, [])


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_what_an_image_brings(kind):
    said = [sys.executable, "docker/requirements.py", "pyproject.toml", *extras(kind)]
    lines = subprocess.run(said, check=True, capture_output=True, text=True).stdout.splitlines()
    names = {re.split(r"[<>=!~\[ ]", line)[0] for line in lines}
    optional = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"torch", "mlflow", "openai", "kubernetes"} <= names  # a TrainJob's driver runs in either image
    assert not any(name.startswith("kfp") for name in names)
    assert not any(line.startswith(("-e", ".", "git+", "file:")) for line in lines)
    assert not names & {"pytest", "ruff", "mypy"}
    assert set(optional["gpu"]) <= set(lines) if kind == "gpu" else "deepspeed" not in names


@pytest.mark.parametrize(("kind", "base"), [("cpu", "PY_IMAGE"), ("gpu", "CUDA_IMAGE")])
def test_what_every_dockerfile_promises(kind, base):
    before, *_, last = stages(kind)
    assert before[0][0] == "ARG"
    assert before[0][1].startswith(f"{base}=")
    roots = [rest.split()[0] for name, rest in instructions(kind) if name == "FROM"]
    names = {rest.split()[-1] for name, rest in instructions(kind) if name == "FROM" and " AS " in rest}
    assert set(roots) - names == {f"${{{base}}}"}  # no base of an image but the one that can be pinned
    assert [rest for name, rest in last if name == "USER"] == ["10001:0"]
    assert json.loads(dict(last)["VOLUME"]) == ["/tmp"]
    environment = dict(re.findall(r"(\w+)=(\S+)", dict(last)["ENV"]))
    for name in ("HOME", "LATEFUSE_HOME", "HF_HOME", "MPLCONFIGDIR"):
        assert environment[name].startswith("/tmp")
    assert dict(last)["LABEL"].count('io.latefuse.source="${SOURCE_DIGEST}"') == 1
    assert not [rest for name, rest in last if name == "RUN"]
    arguments = {rest.partition("=")[0] for name, rest in instructions(kind) if name == "ARG"}
    assert arguments <= {base, "TORCH_INDEX", "SOURCE_DIGEST"}  # a secret as an argument stays in the history
    assert not [rest for name, rest in instructions(kind) if name == "RUN" and COMPILERS.search(rest)]


def test_both_images_end_alike():
    """What is the image's own stands once in each: the rest of their last stages is word for word the same."""

    def end(kind):
        own = ("latefuse-cpu", "latefuse-gpu")
        return [item for item in stages(kind)[-1][1:] if item[0] != "ENV" and not any(o in item[1] for o in own)]

    assert end("cpu") == end("gpu")
    cpu, gpu = (set(dict(stages(kind)[-1])["ENV"].split()) for kind in ("cpu", "gpu"))
    assert cpu < gpu


def test_what_dockerignore_lets_in_is_what_is_copied_and_digested():
    let_in = {line[1:] for line in Path(".dockerignore").read_text().splitlines() if line.startswith("!")}
    digested = {*source_digest.TOP, "src"}
    for kind in ("cpu", "gpu"):
        copies = [rest.split()[:-1] for name, rest in instructions(kind) if name == "COPY" and "--from" not in rest]
        assert {word for words in copies for word in words} == let_in == digested
