"""Print the digest of what an image is made of: source_digest.py cpu. It becomes the image's label and a tag."""

import hashlib
import sys
from pathlib import Path

TOP = ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "docker/requirements.py", "docker/install.sh")
SKIPPED = ("__pycache__", ".egg-info")


def files(root: Path, image: str) -> list[Path]:
    """What .dockerignore lets into the build, and the Dockerfile; sorted by name."""
    source = [path for path in (root / "src").rglob("*") if path.is_file() and not _skipped(path.relative_to(root))]
    return sorted([*source, *(root / name for name in TOP), root / f"docker/Dockerfile.{image}"])


def source_digest(root: Path, image: str) -> str:
    """16 hex digits over names and contents. Raises FileNotFoundError where a file of the list is missing."""
    hasher = hashlib.sha256()
    for path in files(root, image):
        hasher.update(f"{path.relative_to(root).as_posix()}\0".encode())
        hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:16]


def _skipped(path: Path) -> bool:
    return any(part.endswith(SKIPPED) for part in path.parts)


if __name__ == "__main__":
    print(source_digest(Path(__file__).resolve().parents[1], sys.argv[1]))
