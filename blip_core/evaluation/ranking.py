"""Evaluation of retrieval: ITC ranks everything, ITM re-ranks the best candidates.

N pictures, M texts, k candidates. Features stay in memory, and k indices and scores for each picture and each text.
Image embeddings, 2 MB a picture at base size, do not: a picture is encoded a second time for ITM, which costs little
beside its hundreds of pairs with texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_core.datasets import Dataset
from blip_core.datasets.cleaning import clean_caption
from blip_core.evaluation.common import Evaluation, Processes, Run, as_items
from blip_core.inference import Matcher
from blip_core.inference.loaded_model import split
from blip_core.metrics import recalls
from blip_core.metrics.recall import LIMITS
from blip_core.processing.processor import BlipProcessor
from blip_core.search import nearest
from blip_core.tasks import get_task
from blip_core.validators import whole_number

QUERIES = 1024
"""How many features are compared with all others at once: with 16,384 of them, 64 MB."""
TEXTS = 8
"""How many times as many texts as pictures the model gets at once."""


def evaluate_retrieval(
    model: Any,
    processor: BlipProcessor,
    dataset: Dataset,
    *,
    rerank: int = 256,
    frames: int = 1,
    max_words: int = 30,
    **common: Any,
) -> Evaluation:
    """Find every picture's captions among all, and every caption's picture: recall@1, @5 and @10 and median ranks.

    All are ranked by ITC similarity, then the best by the logit of a match plus the similarity, as in the original.
    Examples of the same picture count as one, with all their captions.

    Args:
        model: A matching model of any engine.
        processor: Its processor.
        dataset: Opened for "retrieval".
        rerank: How many of the best are re-ranked by ITM (the original: 256 on COCO, 128 on Flickr30k); 0 for none.
        frames: How many frames stand for a video: ITC takes the mean of their projections, ITM all their tokens; 1
            takes the one in the middle.
        max_words: Words of a caption that count.
        **common: Keywords of `Run`; `progress` counts each picture twice if there is ITM.

    Returns:
        The recalls, their mean and the median ranks, and the rank of the best right candidate of each picture and text.

    Raises:
        ValueError: For a model of another head, and where nothing can be compared.
    """
    matcher = Matcher(model, processor)
    whole_number("rerank", rerank)
    run = Run("retrieval", processor, dataset, **common)
    groups, processes = run.groups(), run.processes

    keys: list[str] = []
    parts = [np.empty((0, matcher.width), np.float32)]  # a process may have no pictures
    for batch in run.batches([group[0] for group in groups.values()], frames):
        parts.append(matcher.item_features(as_items(batch.inputs["pixel_values"]), run.batch_size))
        keys += [example.key for example in batch.examples]
    read = [groups[key][0] for key in processes.join(keys)]
    pictures = np.concatenate(processes.join_arrays(np.concatenate(parts).astype(np.float32)))  # (N, width)
    owned = [[text for example in groups[first.key] for text in example.texts] for first in read]
    texts = [text for group in owned for text in group]
    owners = [index for index, group in enumerate(owned) for _ in group]
    if not texts:
        raise ValueError("The data have no captions, and pictures alone cannot be searched by them; add captions.")
    tokenized = _Texts(matcher, texts, TEXTS * run.batch_size, max_words)
    features = tokenized.features(processes)  # (M, width)

    depth = max(rerank, *LIMITS)
    to_texts, text_scores = _nearest(pictures, features, depth)
    to_pictures, picture_scores = _nearest(features, pictures, depth)
    if rerank:
        own, rankers = to_texts[:, :rerank], _rankers(to_pictures[:, :rerank], len(read))
        text_logits: np.ndarray = np.full(own.shape, -np.inf, np.float32)
        picture_logits: np.ndarray = np.full(to_pictures[:, :rerank].shape, -np.inf, np.float32)
        indices = {first.key: index for index, first in enumerate(read)}
        for batch in run.batches(read, frames):
            states = matcher.item_states(as_items(batch.inputs["pixel_values"]), run.batch_size)
            for state, example in zip(states, batch.examples, strict=True):
                index = indices[example.key]
                places = rankers[index]
                pairs = np.concatenate([own[index], places // picture_logits.shape[1]])
                wanted, inverse = np.unique(pairs, return_inverse=True)  # score each pair once
                logits = tokenized.match(state, wanted)[inverse]
                text_logits[index], picture_logits.flat[places] = np.split(logits, [own.shape[1]])
        text_logits = np.maximum.reduce(processes.join_arrays(text_logits))  # each process has the rows of its pictures
        picture_logits = np.maximum.reduce(processes.join_arrays(picture_logits))
        to_texts = _reorder(to_texts, text_scores, text_logits)
        to_pictures = _reorder(to_pictures, picture_scores, picture_logits)

    right_texts: list[set[int]] = [set() for _ in read]
    for index, owner in enumerate(owners):
        right_texts[owner].add(index)
    right_pictures = [{owner} for owner in owners]
    ways = {"image_to_text": (to_texts, right_texts), "text_to_image": (to_pictures, right_pictures)}
    metrics = {
        f"{way}_recall_{k}": value
        for way, (ranked, right) in ways.items()
        for k, value in _recalls(ranked, right).items()
    }
    metrics["mean_recall"] = float(np.mean(list(metrics.values())))
    text_ranks = _ranks(to_texts, right_texts, pictures, features)
    picture_ranks = _ranks(to_pictures, right_pictures, features, pictures)
    metrics["image_to_text_median_rank"] = float(np.median([rank for rank in text_ranks if rank]))
    metrics["text_to_image_median_rank"] = float(np.median([rank for rank in picture_ranks if rank]))
    names = [first.images[0].name for first in read]
    entries = [
        {"example": first.key, "image": name, "rank": rank, "best": [texts[index] for index in row[: max(LIMITS)]]}
        for first, name, row, rank in zip(read, names, to_texts, text_ranks, strict=True)
    ]
    entries += [
        {"text": text, "image": names[owner], "rank": rank, "best": [names[index] for index in row[: max(LIMITS)]]}
        for text, owner, row, rank in zip(texts, owners, to_pictures, picture_ranks, strict=True)
    ]
    return run.result(metrics, {"pictures": len(read), "texts": len(texts)}, entries)


class _Texts:
    """The texts of a data set, tokenized once and given to the model `size` at a time, in batches of similar length."""

    def __init__(self, matcher: Matcher, texts: Sequence[str], size: int, max_words: int):
        task = get_task("retrieval")
        self.tokens = matcher.tokens([clean_caption(text, max_words) for text in texts], task.max_length)
        self.lengths = self.tokens["attention_mask"].sum(axis=1)
        self.matcher, self.size = matcher, size

    def features(self, processes: Processes) -> np.ndarray:
        """L2-normalised features (M, width), float32."""
        order = np.argsort(self.lengths, kind="stable")
        found = [np.empty((0, self.matcher.width), np.float32)]
        for rows in split(order[processes.own(len(order))], self.size):
            found.append(self.matcher.text_features(self._rows(rows)))
        features = np.concatenate(processes.join_arrays(np.concatenate(found)))
        return features[np.argsort(order, kind="stable")]

    def match(self, states: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The logits of a match of one picture's embeddings (1, T, W) with these texts, float32."""
        logits = np.empty(len(self.lengths), np.float32)
        for rows in split(wanted[np.argsort(self.lengths[wanted], kind="stable")], self.size):
            logits[rows] = self.matcher.match(states, self._rows(rows))[:, 1]
        result: np.ndarray = logits[wanted]
        return result

    def _rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        longest = self.lengths[rows].max()
        return {name: array[rows, :longest] for name, array in self.tokens.items()}


def _nearest(queries: np.ndarray, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [nearest(queries[at : at + QUERIES], features, k) for at in range(0, len(queries), QUERIES)]
    rows, similarities = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(similarities)


def _rankers(to_pictures: np.ndarray, pictures: int) -> list[np.ndarray]:
    """For each picture, flat indices into `to_pictures` (M, k) of the texts that rank it."""
    places = np.argsort(to_pictures, axis=None, kind="stable")
    sizes = np.bincount(to_pictures.ravel(), minlength=pictures)
    return np.split(places, np.cumsum(sizes)[:-1])


def _reorder(ranked: np.ndarray, similarities: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Order the candidates that ITM has scored, the first of each row, by logit + similarity."""
    k = logits.shape[1]
    order = np.argsort(-(logits + similarities[:, :k]), axis=1, kind="stable")
    return np.concatenate([np.take_along_axis(ranked[:, :k], order, axis=1), ranked[:, k:]], axis=1)


def _recalls(ranked: np.ndarray, right: Sequence[set[int]]) -> dict[int, float]:
    """Recall over the queries that have a right candidate: pictures without captions are only in the others' way."""
    asked = [query for query, wanted in enumerate(right) if wanted]
    return recalls(ranked[asked, : max(LIMITS)].tolist(), [right[query] for query in asked])


def _ranks(
    ranked: np.ndarray, right: Sequence[set[int]], queries: np.ndarray, features: np.ndarray
) -> list[int | None]:
    """The rank of the best right candidate of each query, from 1 on; None where there is no right one.

    One that is not among the `ranked` has the rank that its ITC similarity gives it.
    """
    found: list[int | None] = []
    for row, wanted, query in zip(ranked.tolist(), right, queries, strict=True):
        rank = next((place for place, index in enumerate(row, 1) if index in wanted), None)
        if rank is None and wanted:
            similarities = features @ query
            rank = 1 + int((similarities > similarities[list(wanted)].max()).sum())
        found.append(rank)
    return found
