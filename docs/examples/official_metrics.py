"""METEOR and, with --spice, SPICE of captions by the official Java programs.

FILE is what `blip evaluate caption --output FILE` wrote. Needs Java and `pip install pycocoevalcap`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def official_metrics(results: dict[str, Any], *, spice: bool = False) -> dict[str, float]:
    """Return the metrics of the captions that have references.

    Args:
        results: What `blip evaluate caption --output` wrote.
        spice: Whether to compute SPICE, too, which takes long and downloads its models the first time.
    """
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    examples = {i: entry for i, entry in enumerate(results["examples"]) if "references" in entry}
    tokenize = PTBTokenizer().tokenize
    captions = tokenize({i: [{"caption": entry["caption"]}] for i, entry in examples.items()})
    references = tokenize({i: [{"caption": text} for text in entry["references"]] for i, entry in examples.items()})
    found = {"meteor": float(Meteor().compute_score(references, captions)[0])}
    if spice:
        from pycocoevalcap.spice.spice import Spice

        found["spice"] = float(Spice().compute_score(references, captions)[0])
    return found


def main() -> None:
    """Read the arguments and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--spice", action="store_true")
    args = parser.parse_args()
    for name, value in official_metrics(json.loads(args.file.read_text(encoding="utf-8")), spice=args.spice).items():
        print(f"{name}  {value:.4f}")


if __name__ == "__main__":
    main()
