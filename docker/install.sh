#!/bin/sh
# What both images install before latefuse itself, in the folder of pyproject.toml: install.sh EXTRA...
# Of kfp only the executor is needed in a step, and that has no dependencies of its own; so pip checks what is there
# before kfp comes. TORCH_INDEX: an index of CPU builds of torch; empty leaves torch to the package index.
set -eu
python3 requirements.py pyproject.toml "$@" > requirements.txt
if [ -n "${TORCH_INDEX:-}" ]; then
    pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"
fi
pip install -c constraints.txt -r requirements.txt
pip check
pip install --no-deps "$(grep '^kfp==' constraints.txt)"
