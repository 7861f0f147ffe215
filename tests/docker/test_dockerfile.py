"""The installation in the image, its commands run with a pip that only takes notes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCKERFILE = Path("docker/Dockerfile.cpu")
INDEX = "https://index.example/cpu"
PIP = """#!/bin/sh
echo "$*" >> calls
case "$*" in *"$REFUSED"*) exit 1 ;; esac
"""


def installation():
    """The shell commands of the RUN that installs the requirements."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    [line] = [line for line in text.splitlines() if line.startswith("RUN python3 requirements.py")]
    return line.removeprefix("RUN ")


@pytest.fixture
def install(tmp_path):
    """`install(index, refused)` -> exit status and the calls of pip, of which those that hold `refused` fail."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, text in (("pip", PIP), ("python3", "#!/bin/sh\n")):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    shutil.copy("constraints.txt", tmp_path)

    def call(index, refused="nothing at all"):
        (tmp_path / "calls").write_text("")
        path = f"{stubs}{os.pathsep}{os.defpath}"
        environment = {"PATH": path, "TORCH_INDEX": index, "REFUSED": refused}
        done = subprocess.run(["/bin/sh", "-c", installation()], cwd=tmp_path, env=environment, timeout=30)
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


@pytest.mark.parametrize("refused", [INDEX, "check", "requirements.txt", "kfp=="])
def test_a_failing_installation_fails_the_build(install, refused):
    status, calls = install(INDEX, refused)
    assert status != 0
    assert refused in calls[-1]


def test_the_image_brings_what_an_endpoint_and_a_trainjob_need_and_no_compiler_of_pipelines():
    said = [sys.executable, "docker/requirements.py", "pyproject.toml", "llm", "cluster"]
    lines = subprocess.run(said, check=True, capture_output=True, text=True).stdout.split()
    assert any(line.startswith("openai>=") for line in lines)
    assert any(line.startswith("kubernetes>=") for line in lines)
    assert not any(line.startswith("kfp") for line in lines)
    assert " pyproject.toml llm cluster " in installation()
