"""The digest of a pushed image, noted by a script whose builder is a stub."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path("scripts/image_digest.sh").absolute()
DIGEST = "sha256:" + "0f" * 32
DOCKER = f"""#!/bin/sh
echo "$*" >> calls
[ "$1" = image ] && echo "registry/gpu@{DIGEST}"
exit 0
"""
PODMAN = f"""#!/bin/sh
echo "$*" >> calls
[ "$2" = --digestfile ] && printf %s "{DIGEST}" > "$3"
exit 0
"""


def note(folder, name, stub):
    (folder / name).write_text(stub)
    (folder / name).chmod(0o755)
    command = ["bash", str(SCRIPT), str(folder / name), "registry/gpu:1", "build/images.json"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("name", "stub"), [("docker", DOCKER), ("podman", PODMAN), ("buildah", PODMAN)])
def test_the_digest_is_noted_beside_others(name, stub, tmp_path):
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "images.json").write_text('{"registry/cpu:1": "sha256:00"}')
    done = note(tmp_path, name, stub)
    assert done.returncode == 0, done.stderr
    noted = json.loads((tmp_path / "build" / "images.json").read_text())
    assert noted == {"registry/cpu:1": "sha256:00", "registry/gpu:1": DIGEST}
    assert (tmp_path / "calls").read_text().startswith("push ")


@pytest.mark.parametrize("stub", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\nexit 0\n"])
def test_without_a_digest_nothing_is_noted(stub, tmp_path):
    assert note(tmp_path, "podman", stub).returncode == 1
    assert not (tmp_path / "build").exists()
