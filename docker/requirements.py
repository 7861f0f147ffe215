"""Print the run-time requirements of pyproject.toml without those a step in a container never needs."""

import sys
import tomllib
from pathlib import Path

ELSEWHERE = ("kfp", "kfp-kubernetes")  # kfp is installed without its dependencies, the compiler stays outside


def main() -> None:
    """argv: pyproject.toml."""
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    for line in project["dependencies"]:
        if line.split(">")[0].split("=")[0].split("<")[0].strip() not in ELSEWHERE:
            print(line)


if __name__ == "__main__":
    main()
