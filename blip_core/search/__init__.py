"""Search over collections of pictures and videos, by text or by picture."""

from blip_core.processing.video import sample_frames
from blip_core.search.collection import Collection
from blip_core.search.feature_index import Entry, FeatureIndex, default_index, delete_index
from blip_core.search.neighbours import Hit, candidates, find, nearest, rerank
from blip_core.search.searcher import Searcher

__all__ = [
    "Collection",
    "Entry",
    "FeatureIndex",
    "Hit",
    "Searcher",
    "candidates",
    "default_index",
    "delete_index",
    "find",
    "nearest",
    "rerank",
    "sample_frames",
]
