"""Print the requirements of pyproject.toml, and of some of its extras, without what no step in a container needs."""

import sys
import tomllib
from pathlib import Path

ELSEWHERE = ("kfp", "kfp-kubernetes")  # kfp is installed without its dependencies, the compiler stays outside


def main() -> None:
    """argv: pyproject.toml, then the extras."""
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    extras = [line for extra in sys.argv[2:] for line in project["optional-dependencies"][extra]]
    for line in [*project["dependencies"], *extras]:
        if line.split(">")[0].split("=")[0].split("<")[0].strip() not in ELSEWHERE:
            print(line)


if __name__ == "__main__":
    main()
