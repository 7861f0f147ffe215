"""Runs inside an image under make image-check: tells as JSON who it is and what it could do of what it must not."""

import json
import os
import re
import shutil
import socket
from pathlib import Path

ROOT_PLACES = ("/", "/etc", "/usr", "/venv", "/venv/bin", "/var/tmp", "/opt", "/home")
COMPILERS = ("cc", "gcc", "g++", "clang", "nvcc", "make", "ninja")
LEFT_BY_BUILD = ("/etc/pip.conf", "/build")


def could_write(place: str) -> bool:
    """Whether a file can be made there."""
    path = Path(place) / "latefuse-probe"
    try:
        path.write_text("")
    except OSError:
        return False
    path.unlink()
    return True


def could_connect() -> bool:
    """Whether a datagram finds a way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        try:
            end.connect(("192.0.2.1", 9))  # reserved for documentation (RFC 5737)
        except OSError:
            return False
    return True


status = Path("/proc/self/status").read_text()
capabilities = re.search(r"CapEff:\s*([0-9a-f]+)", status)
print(
    json.dumps(
        {
            "uid": os.getuid(),
            "gid": os.getgid(),
            "written": [place for place in ROOT_PLACES if could_write(place)],
            "network": could_connect(),
            "capabilities": f"{int(capabilities[1], 16):x}" if capabilities else "unknown",
            "home": could_write(os.environ["HOME"]),
            "compilers": [name for name in COMPILERS if shutil.which(name)],
            "left": [place for place in LEFT_BY_BUILD if Path(place).exists()],
        }
    )
)
