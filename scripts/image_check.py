"""Build the CPU image without a daemon and run a pipeline in it: make image-check (as root, on Debian).

The base comes from the Debian mirror that apt knows, pip's settings of this machine are lent to the build. The steps
run as the pipeline would start them: a container each, a random UID with group 0, a root file system that is read-only,
no capability, no network, volumes where the profile has them. What must fail there is tried too, beside what must work.
"""

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.oci_step import METADATA, VOLUME_ROOTS, graph, spec

ROOT = Path(__file__).resolve().parents[1]
RELEASE, PACKAGES = "bookworm", "python3,python3-venv,ca-certificates"
BASE, IMAGE = f"localhost/latefuse-base:{RELEASE}", "localhost/latefuse-cpu-check:latest"
TOOLS = ("buildah", "mmdebstrap", "runc")
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LENT = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "timeout", "default-timeout")


def call(*command: str, cwd: Path | None = None, quiet: bool = False) -> str:
    """Standard output of a command. Raises SystemExit with what it said last; quiet: its messages are kept back."""
    said = subprocess.PIPE if quiet else None
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=said, text=True)
    if done.returncode:
        tail = ((done.stdout or "") + (done.stderr or "")).strip().splitlines()[-30:]
        raise SystemExit("\n".join([*tail, f"image-check: {' '.join(command[:3])} ended with {done.returncode}"]))
    return done.stdout.strip()


def missing() -> str:
    """What this machine lacks, in words; empty where nothing is missing."""
    if absent := [name for name in TOOLS if not shutil.which(name)]:
        return f"{', '.join(absent)} not found: apt-get install {' '.join(TOOLS)}"
    return "" if _is_root() else "run it as root: the base is made and mounted with root's rights"


def make_base() -> None:
    """A Debian root with Python as a local image, made once."""
    if subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True).returncode == 0:
        return
    kinds = ("Created-By: Packages", "Origin: Debian")
    mirrors = call("apt-get", "indextargets", "--format", "$(REPO_URI)", *kinds, quiet=True).splitlines()
    mirror = mirrors[0] if mirrors else "http://deb.debian.org/debian"
    with tempfile.TemporaryDirectory() as folder:
        tar = f"{folder}/base.tar"
        call("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, tar, mirror, quiet=True)
        container = call("buildah", "from", "scratch")
        call("buildah", "add", "--quiet", container, tar, "/")
        call("buildah", "config", "--env", f"PATH={PATHS}", "--cmd", "python3", container)
        call("buildah", "commit", "--quiet", "--rm", container, BASE)


def pip_settings(listed: str) -> tuple[str, list[str]]:
    """From what `pip config list` prints: a pip.conf with the settings of LENT, and the folders and files it names.

    A setting of the environment beats one of a file, as it does for pip.
    """
    found: dict[str, str] = {}
    for line in sorted(listed.splitlines(), reverse=True):  # "global.x" before ":env:.x"
        key, _, value = line.partition("=")
        scope, _, name = key.rpartition(".")
        if name in LENT and scope in ("global", ":env:"):
            found["timeout" if name == "default-timeout" else name] = value.strip("'\"")
    words = [word.removeprefix("file://") for value in found.values() for word in value.split()]
    places = sorted({_mounted(word) for word in words if word.startswith("/") and Path(word).exists()})
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in sorted(found.items()))]) + "\n", places


def build(folder: Path) -> None:
    """The image from docker/Dockerfile.cpu, its base by digest; only what the build downloads needs a network."""
    text, places = pip_settings(call(sys.executable, "-m", "pip", "config", "list", quiet=True))
    (folder / "pip.conf").write_text(text, encoding="utf-8")
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    at_hand = [wheel for place in places for wheel in Path(place).glob(f"torch-{torch[7:]}+cpu-*.whl")]
    lent = [f"{folder}/pip.conf:/etc/pip.conf:ro", *(f"{place}:{place}:ro" for place in places)]
    arguments = {"PY_IMAGE": f"{BASE.partition(':')[0]}@{digest(BASE)}", "SOURCE_DIGEST": source()}
    if at_hand:
        arguments["TORCH_INDEX"] = ""
    flags = [flag for name, value in arguments.items() for flag in ("--build-arg", f"{name}={value}")]
    flags += [flag for one in lent for flag in ("--volume", one)]
    mode = ("--isolation", "chroot", "--pull-never", "--layers", "--format", "oci")
    dockerfile = ("--file", "docker/Dockerfile.cpu", "--tag", IMAGE, ".")
    call("buildah", "bud", *mode, *flags, *dockerfile, cwd=ROOT, quiet=True)


def digest(image: str) -> str:
    """The digest of an image in the local store."""
    return call("buildah", "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", image, quiet=True)


def source() -> str:
    """The digest of the source as this checkout has it."""
    return call(sys.executable, str(ROOT / "scripts/source_digest.py"), "cpu")


def tell() -> dict[str, Any]:
    """Size and digest are printed; returns the image's own configuration."""
    size = call("buildah", "images", "--format", "{{.Size}}", IMAGE, quiet=True)
    said = json.loads(call("buildah", "inspect", "--type", "image", IMAGE, quiet=True))["OCIv1"]["config"]
    print(f"{IMAGE}: {size}, {digest(IMAGE)}, source {said['Labels']['io.latefuse.source']}", flush=True)
    if said["User"] != "10001:0" or said["Labels"]["io.latefuse.source"] != source():
        raise SystemExit(f"image-check: the image has user {said['User']} and labels {said['Labels']}")
    return said


def run_in(said: dict[str, Any], folder: Path, process: list[str], env: dict[str, str], user: int) -> str:
    """The output of a process in the image, under `spec`, with a /tmp of its own; folder: where its volumes lie."""
    container = call("buildah", "from", "--pull-never", IMAGE)
    try:
        bundle = folder / "bundle"
        bundle.mkdir(exist_ok=True)
        root = call("buildah", "mount", container)
        volumes = {name: folder / "volumes" / name.strip("/") for name in VOLUME_ROOTS}
        shutil.rmtree(volumes["/tmp"], ignore_errors=True)
        for path in volumes.values():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o2775)  # as a volume is with fsGroup 0
            shutil.chown(path, 0, 0)
        made = spec(root, said, process, env, user, volumes)
        (bundle / "config.json").write_text(json.dumps(made), encoding="utf-8")
        return call("runc", "run", "--bundle", str(bundle), container, quiet=True)
    finally:
        call("buildah", "rm", container)


def check_walls(said: dict[str, Any], folder: Path, user: int) -> None:
    """What no process in there may do. Raises SystemExit."""
    probe = json.loads(run_in(said, folder, ["python3", "-c", (ROOT / "scripts/image_probe.py").read_text()], {}, user))
    wanted = {"uid": user, "gid": 0, "written": [], "network": False, "capabilities": "0", "home": True}
    wanted |= {"compilers": [], "left": []}
    if probe != wanted:
        raise SystemExit(f"image-check: in the image {probe}, expected {wanted}")


def check_steps(said: dict[str, Any], folder: Path, user: int) -> None:
    """Every step of a small demo, one container after the other, to its report. Raises SystemExit."""
    steps, volumes = graph(ROOT), folder / "volumes"
    for name in steps.order:
        start = time.monotonic()
        said_last = run_in(said, folder, *steps.started(name), user)
        told = volumes / METADATA.strip("/")
        if not told.is_file():
            raise SystemExit(f"image-check: `{name}` wrote no {METADATA}\n{said_last}")
        steps.done[name] = json.loads(told.read_text(encoding="utf-8"))
        if told.stat().st_uid != user:
            raise SystemExit(f"image-check: {METADATA} of `{name}` belongs to {told.stat().st_uid}, not to {user}")
        print(f"{name} ran as {user}:0 on a read-only root in {time.monotonic() - start:.0f} s", flush=True)
    report = (volumes / "minio/check/evaluate/report").read_text(encoding="utf-8")
    if "</html>" not in report:
        raise SystemExit(f"image-check: `evaluate` wrote a report of {len(report)} characters that is no whole page")
    with contextlib.closing(sqlite3.connect(volumes / "workspace/latefuse/mlflow.db")) as database:
        found = database.execute("select name, status from runs order by start_time").fetchall()
    finished = [name for name, status in found if status == "FINISHED"]
    if len(finished) < len(steps.order):
        raise SystemExit(f"image-check: MLflow has {found}, not a finished run for each of {steps.order}")
    print(f"{len(steps.order)} steps, a report of {len(report):,} characters, {len(found)} runs in MLflow")


def main() -> None:
    """Base, build, steps; each prints its time."""
    if words := missing():
        raise SystemExit(f"image-check: {words}")
    with tempfile.TemporaryDirectory(prefix="latefuse-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for title, part in (("the base", make_base), ("the image", lambda: build(folder))):
            start = time.monotonic()
            part()
            print(f"{title} took {time.monotonic() - start:.0f} s", flush=True)
        said, user = tell(), random.SystemRandom().randrange(100_000, 2_000_000_000)
        check_walls(said, folder, user)
        check_steps(said, folder, user)


def _mounted(word: str) -> str:
    """The folder that must be lent for an index: a simple index points to its files with `../..`."""
    path = Path(word)
    return str(path.parent if path.name == "simple" else path)


def _is_root() -> bool:
    return Path("/proc/self").stat().st_uid == 0


if __name__ == "__main__":
    main()
