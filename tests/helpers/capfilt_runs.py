"""What `blip capfilt` wrote, and its models loaded, for all tests of it."""

import json
from pathlib import Path

import pytest

from blip_core.capfilt import CapFilter, Captioning
from blip_core.engines import ENGINES
from blip_core.inference import Captioner, Matcher
from tests.helpers.frameworks import require

HEADS = {
    "captioner": "BlipForConditionalGeneration",
    "filter": "BlipForImageTextRetrieval",
    "both": "BlipForPreTraining",
}
FRAMEWORKS = list(ENGINES)[:2]
ROOT = Path(__file__).parents[2]


def load(models, framework, captioner="captioner", matcher="filter", **captioning):
    require(framework)
    uses = [Captioner.from_pretrained(models / captioner, engine=framework)]
    uses += [Matcher.from_pretrained(models / matcher, engine=framework)]
    return CapFilter(*uses, Captioning(**captioning))


def lines(output, kind):
    """The lines of all shards in order."""
    paths = sorted((Path(output) / kind).glob("0*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def captions(output):
    """What became of every caption, by picture and words; scores apart."""
    found = {}
    for line in lines(output, "kept"):
        for text, source, score in zip(line["caption"], line["source"], line["score"], strict=True):
            found[line["hash"], source, text] = ("kept", score)
    for line in lines(output, "dropped"):
        if "score" in line:
            found.setdefault((line["hash"], line["source"], line["caption"]), (line["reason"], line["score"]))
    return found


def same(one, other):
    """Captions and decisions are equal, and scores to their last digit."""
    assert one.keys() == other.keys()
    for caption, (decision, score) in one.items():
        assert other[caption] == (decision, pytest.approx(score, abs=1.5e-4))
    return True


def contents(output):
    """The bytes of all files of a folder."""
    return {path.relative_to(output): path.read_bytes() for path in Path(output).rglob("*") if path.is_file()}
