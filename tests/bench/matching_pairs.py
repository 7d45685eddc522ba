"""Seconds that a search needs for a picture at base size: to index it, and to match it with texts.

`python -m tests.bench.matching_pairs pt|tf [--pictures N]`.
The weights are random, the pictures noise of 384 x 384 pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from blip_core import BlipConfig, BlipProcessor
from blip_core.inference import Matcher


def median(run: Callable[[], Any], times: int = 3) -> float:
    """The median of the seconds that a call takes, after one that does not count."""
    seconds = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("pt", "tf"))
    parser.add_argument("--pictures", type=int, default=4)
    args = parser.parse_args()
    if args.framework == "pt":
        from blip_pt import BlipForImageTextRetrieval

        model = BlipForImageTextRetrieval(BlipConfig.base()).eval()
    else:
        from blip_tf import TFBlipForImageTextRetrieval

        model = TFBlipForImageTextRetrieval(BlipConfig.base())
    matcher = Matcher(model, BlipProcessor())
    noise = np.random.default_rng(0)
    items = [noise.normal(size=(1, 3, 384, 384)).astype(np.float32) for _ in range(args.pictures)]
    texts = [f"a photograph of {number} dogs on a beach" for number in range(16)]
    encode = median(lambda: matcher.item_features(items)) / args.pictures
    (states,) = matcher.item_states(items[:1])
    one, many = (median(lambda part=part: matcher.match(states, part)) for part in (texts[:1], texts))  # type: ignore[misc]
    begin = time.perf_counter()
    matcher.features_identity  # noqa: B018  # a property that is computed once
    print(f"{args.framework}: a picture is encoded in {encode:.2f} s ({args.pictures} at once)")
    print(f"and matched with one text in {one:.2f} s, with 16 in {many:.2f} s: {many / one:.1f} times")
    print(f"identity of the model: {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    main()
