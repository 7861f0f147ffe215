"""`make images` with a builder that only takes notes; the digest of the source against a copy that is edited."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DIGEST = "sha256:" + "0f" * 32
BASE = f"registry/base@{DIGEST}"
PODMAN = f"""#!/bin/sh
echo "$*" >> calls
case "$1 $2" in "push --digestfile") printf %s "{DIGEST}" > "$3" ;; "image inspect") echo {DIGEST} ;; esac
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("docker", "scripts"):
        shutil.copytree(name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(name, tmp_path)
    (tmp_path / "src/latefuse").mkdir(parents=True)
    (tmp_path / "src/latefuse/__init__.py").write_text("")
    (tmp_path / "podman").write_text(PODMAN)
    (tmp_path / "podman").chmod(0o755)
    return tmp_path


def images(checkout, *kinds, **settings):
    environment = {
        "PATH": os.defpath, "PYTHON": sys.executable, "BUILDER": str(checkout / "podman"), "REGISTRY": "registry",
        "IMAGE_TAG": "1", "PY_IMAGE": BASE, "CUDA_IMAGE": BASE, **settings,
    }  # fmt: skip
    command = ["bash", str(checkout / "scripts/images.sh"), *kinds]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def digest(checkout, kind="cpu"):
    command = [sys.executable, str(checkout / "scripts/source_digest.py"), kind]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_both_are_built_tagged_with_their_source_and_noted(checkout):
    done = images(checkout, "cpu", "gpu", PUSH="1")
    assert done.returncode == 0, done.stderr
    calls = (checkout / "calls").read_text().splitlines()
    builds = [call for call in calls if call.startswith("build ")]
    for call, kind in zip(builds, ("cpu", "gpu"), strict=True):
        assert f"docker/Dockerfile.{kind}" in call
        assert f"=registry/base@{DIGEST} " in call
        assert f"--tag registry/latefuse-{kind}:src-{digest(checkout, kind)} ." in call
        assert f"--build-arg SOURCE_DIGEST={digest(checkout, kind)} " in call
    noted = json.loads((checkout / "build/images.json").read_text())
    assert noted == {"registry/latefuse-cpu:1": DIGEST, "registry/latefuse-gpu:1": DIGEST}


def test_without_push_digests_are_printed_and_none_is_noted(checkout):
    done = images(checkout, "cpu")
    assert f"registry/latefuse-cpu:1: source {digest(checkout)}, here {DIGEST}" in done.stdout
    assert not (checkout / "build").exists()
    assert "push" not in (checkout / "calls").read_text()


@pytest.mark.parametrize("base", ["python:3.11-slim", "python@sha256:12", f"{BASE}0"])
def test_a_base_by_tag_is_refused_until_it_is_allowed(checkout, base):
    done = images(checkout, "cpu", PY_IMAGE=base)
    assert done.returncode == 1
    assert "PY_IMAGE" in done.stderr
    assert "ALLOW_TAG=1" in done.stderr
    assert not (checkout / "calls").exists()
    assert images(checkout, "cpu", PY_IMAGE=base, ALLOW_TAG="1").returncode == 0


@pytest.mark.parametrize(
    ("kinds", "settings", "words"),
    [(["tpu"], {}, "cpu and gpu"), ([], {}, "IMAGES="), (["cpu"], {"BUILDER": ""}, "docker")],
)
def test_what_cannot_be_built_is_named(checkout, kinds, settings, words):
    done = images(checkout, *kinds, **settings)
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize("edited", ["src/latefuse/new.yaml", "constraints.txt", "docker/Dockerfile.cpu"])
def test_the_digest_follows_what_goes_in(checkout, edited):
    before = digest(checkout)
    (checkout / "src/latefuse/__pycache__").mkdir()
    (checkout / "src/latefuse/__pycache__/a.pyc").write_text("x")
    (checkout / "docker/Dockerfile.gpu").write_text("FROM scratch\n")
    assert digest(checkout) == before
    with Path(checkout / edited).open("a") as file:
        file.write("\n# another line\n")
    assert digest(checkout) != before
