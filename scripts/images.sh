#!/usr/bin/env bash
# Build images of the steps and print their digests: images.sh cpu gpu. Settings come from the environment, as
# `make images` gives them: BUILDER REGISTRY IMAGE_TAG PY_IMAGE CUDA_IMAGE PUSH ALLOW_TAG.
# PUSH=1 also pushes and notes each digest in build/images.json, where profiles find it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -n "${BUILDER:-}" ] || { echo "make images needs docker, podman or buildah" >&2; exit 1; }
[ $# -gt 0 ] || { echo 'make images: name what to build: IMAGES="cpu gpu"' >&2; exit 1; }

yes() { case "${1,,}" in 1 | true | yes) return 0 ;; *) return 1 ;; esac; }

for kind in "$@"; do
    case $kind in
        cpu) argument=PY_IMAGE ;;
        gpu) argument=CUDA_IMAGE ;;
        *) echo "make images: IMAGES=$kind: there are cpu and gpu" >&2; exit 1 ;;
    esac
    base=${!argument}
    if [[ ! $base =~ @sha256:[0-9a-f]{64}$ ]] && ! yes "${ALLOW_TAG:-}"; then
        echo "make images: $argument=$base is a tag, which can be moved: name the base as name@sha256:... ;" \
            "ALLOW_TAG=1 lets a tag pass" >&2
        exit 1
    fi
    name=$REGISTRY/latefuse-$kind
    image=$name:$IMAGE_TAG
    digest=$("$python" scripts/source_digest.py "$kind")
    arguments=(--build-arg "$argument=$base" --build-arg "SOURCE_DIGEST=$digest")
    if [ "$kind" = cpu ] && [ -n "${TORCH_INDEX+set}" ]; then
        arguments+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
    fi
    verb=build tell=(image inspect --format '{{.Id}}')
    [ "$(basename "$BUILDER")" != buildah ] || { verb=bud tell=(inspect --type image --format '{{.FromImageDigest}}'); }
    "$BUILDER" "$verb" --file "docker/Dockerfile.$kind" "${arguments[@]}" --tag "$image" --tag "$name:src-$digest" .
    echo "$image: source $digest, here $("$BUILDER" "${tell[@]}" "$image")"
    if yes "${PUSH:-}"; then
        "$BUILDER" push "$name:src-$digest"
        PYTHON=$python scripts/image_digest.sh "$BUILDER" "$image" build/images.json
    else
        echo "$image: not pushed, so no registry's digest is known; PUSH=1 notes it in build/images.json"
    fi
done
