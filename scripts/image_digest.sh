#!/usr/bin/env bash
# Push an image and note the digest that the registry has it under: image_digest.sh BUILDER IMAGE build/images.json
# A digest of the local store would not do: pushing may compress layers anew, and then no registry knows it.
set -euo pipefail
builder=$1 image=$2 file=$3
noted=$(mktemp)
trap 'rm -f "$noted"' EXIT

if [ "$(basename "$builder")" = docker ]; then
    "$builder" push "$image"
    "$builder" image inspect --format '{{index .RepoDigests 0}}' "$image" | sed 's/.*@//' > "$noted"
else
    "$builder" push --digestfile "$noted" "$image"
fi
digest=$(tr -d '[:space:]' < "$noted")
if [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "$builder tells no digest of $image after pushing it" >&2
    exit 1
fi
"${PYTHON:-python3}" - "$file" "$image" "$digest" <<'PY'
import json, pathlib, sys

path, image, digest = pathlib.Path(sys.argv[1]), *sys.argv[2:]
known = json.loads(path.read_text()) if path.exists() else {}
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps({**known, image: digest}, indent=1, sort_keys=True) + "\n")
print(f"{image}: {digest} noted in {path}")
PY
