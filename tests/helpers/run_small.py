"""Run the small pipeline as `latefuse run` runs the real one: run_small.py '{"image": {"wait_s": 60}}' --fresh."""

import json
import sys

import small_graph

from latefuse.cluster import local
from latefuse.cluster.summary import closing_words
from latefuse.configfile import load


def main() -> int:
    settings = load("tests/golden/recipe.yaml")
    changes = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    texts = {key: json.dumps({"text": key, **changes.get(key, {})}) for key in ("image", "video", "evaluate")}
    try:
        print(closing_words(local.run(settings, small_graph.builder(texts), fresh="--fresh" in sys.argv)))
    except local.RunError as error:
        print(f"failed: {error}")
        return 1
    except KeyboardInterrupt as signal:
        print("stopped", *signal.args)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
