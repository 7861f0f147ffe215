"""Images by digest: a tag can be moved, and Kubeflow's cache would then keep results of code that is gone.

`make images PUSH=1` notes which digest each image has in build/images.json; a profile names the image by its tag.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from latefuse.config_profile import Profile, Resources, Step
from latefuse.sections import ConfigError

IMAGES = Path("build/images.json")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


def is_pinned(image: str) -> bool:
    """Whether an image is named by its digest."""
    return bool(_DIGEST.search(image))


def by_tag(profile: Profile) -> list[str]:
    """The images of a profile that are named by a tag alone, each once."""
    parts = [profile.default, profile.driver, *profile.steps.values()]
    return sorted({part.image for part in parts if part.image and not is_pinned(part.image)})


def refusal(image: str) -> str:
    """What is said of an image by a tag."""
    return (
        f"image {image} has no known digest: `make images PUSH=1` notes it in build/images.json, or name it as "
        "name@sha256:...; ALLOW_TAG=1 lets a tag pass"
    )


def known_digests(path: Path = IMAGES) -> dict[str, str]:
    """Image by tag -> `sha256:...`; empty where no image was built here. Raises ConfigError for a file that is none."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        wrong = [name for name, digest in found.items() if not is_pinned(f"{name}@{digest}")]
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: expected an object of image: sha256:digest ({error}); make images writes it"
        ) from None
    if wrong:
        raise ConfigError(f"{path}: {wrong[0]}: {found[wrong[0]]!r} is no sha256 digest; make images writes them")
    return dict(found)


def resolved_image(profile: Profile, step: Step, path: Path = IMAGES) -> str | None:
    """The image of a step with its digest, `name:tag@sha256:...`, where one is known, else as the profile has it.

    None for a profile that runs on this machine. `is_pinned` tells which it is.
    """
    return _resolved(profile.resources(step).image, known_digests(path))


def resolved(profile: Profile, path: Path = IMAGES) -> Profile:
    """The profile with every image by its digest, as far as one is known."""
    digests = known_digests(path)

    def one(part: Resources) -> Resources:
        return part.model_copy(update={"image": _resolved(part.image, digests)}) if part.image else part

    return profile.model_copy(
        update={
            "default": one(profile.default),
            "driver": one(profile.driver),
            "steps": {step: one(part) for step, part in profile.steps.items()},
        }
    )


def _resolved(image: str | None, digests: dict[str, str]) -> str | None:
    return f"{image}@{digests[image]}" if image in digests and image else image
