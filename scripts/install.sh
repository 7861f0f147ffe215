#!/usr/bin/env bash
# Make a virtual environment and install latefuse into it, with the tested versions: scripts/install.sh .venv
# pip's own settings (index, PIP_FIND_LINKS, constraints) are honoured; uv is used where it can be had.
set -euo pipefail

venv=${1:-.venv}
python=${PYTHON:-python3}
extras=${EXTRAS:-dev}

"$python" - <<'CHECK' || { echo "latefuse needs Python 3.11 or newer; say which: make setup PYTHON=python3.12" >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
CHECK

if [ ! -x "$venv/bin/python" ]; then
    echo "making $venv"
    "$python" -m venv "$venv"
fi

# A machine without a GPU wants the CPU build of torch. Where none is at hand on the usual paths, PyTorch's own index
# of CPU builds is asked; LATEFUSE_TORCH_INDEX names another, an empty one switches this off.
constraints=(-c constraints.txt)
torch=$(grep '^torch==' constraints.txt)
target=".[$extras]"

pip_setting() { "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null || true; }
find_links=${PIP_FIND_LINKS:-$(pip_setting find-links)}

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }

cpu_build_at_hand() {
    local version=${torch#torch==} place
    for place in $find_links; do
        [ -d "$place" ] && compgen -G "$place/torch-${version}+cpu-*.whl" >/dev/null && return 0
    done
    return 1
}

with_uv() { "$venv/bin/python" -m uv --version >/dev/null 2>&1; }

install() {
    if with_uv; then
        # uv does not read pip's settings: hand it those that matter.
        local settings=(UV_INDEX_STRATEGY=unsafe-best-match UV_FIND_LINKS="$(xargs <<<"$find_links" | tr ' ' ',')")
        local index=${PIP_INDEX_URL:-$(pip_setting index-url)} extra=${PIP_EXTRA_INDEX_URL:-$(pip_setting extra-index-url)}
        [ -z "$index" ] || settings+=(UV_DEFAULT_INDEX="$index")
        [ -z "$extra" ] || settings+=(UV_INDEX="$extra")
        [ -z "${PIP_CERT:-}" ] || settings+=(SSL_CERT_FILE="$PIP_CERT")
        env "${settings[@]}" "$venv/bin/python" -m uv pip install --quiet --compile-bytecode \
            --python "$venv/bin/python" "$@" && return
        echo "uv failed; pip tries again"
    fi
    "$venv/bin/python" -m pip install --quiet "$@"
}

"$venv/bin/python" -m pip install --quiet uv >/dev/null 2>&1 || echo "uv can't be had here; pip does the work"

if ! has_gpu && ! cpu_build_at_hand && [ "$(uname -s)" = Linux ]; then
    cpu_index=${LATEFUSE_TORCH_INDEX-https://download.pytorch.org/whl/cpu}
    if [ -n "$cpu_index" ]; then
        echo "no GPU: asking $cpu_index for the CPU build of torch"
        "$venv/bin/python" -m pip install --quiet --no-deps --retries 1 --timeout 15 --index-url "$cpu_index" "$torch" ||
            echo "no CPU build there; the package index decides"
    fi
fi

echo "installing latefuse (some minutes with pip, seconds with uv)"
install "${constraints[@]}" -e "$target"
"$venv/bin/python" -m pip check
