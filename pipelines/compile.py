"""Write the compiled pipeline of one recipe under one profile: `make pipeline-compile` calls it through the CLI."""

from pathlib import Path

from kfp import compiler

from latefuse.cluster.place import check_supported
from latefuse.config import Config
from pipelines.late_fusion import build


def compile_pipeline(config: Config, path: Path) -> Path:
    """Compile to `path` (YAML); the same configuration always gives the same bytes. Raises ConfigError."""
    check_supported(config.profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build(config), str(path))
    return path
