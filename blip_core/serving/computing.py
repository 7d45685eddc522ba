"""How the tasks are computed: a batch of requests in, a result for each out, the same as for each by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blip_core.generation.call_checks import check_stream
from blip_core.generation.generation_hooks import Hooks
from blip_core.generation.scores import softmax
from blip_core.inference.labels import tell_apart
from blip_core.inference.loaded_model import split
from blip_core.inference.results import Match
from blip_core.inference.text_writer import TextWriter
from blip_core.search.searcher import RERANK
from blip_core.serving.api_tasks import Ask
from blip_core.serving.served_models import Models

ROWS = 32
"""Texts that a model gets at once."""
Results = list[dict[str, Any]]


def check_nothing(models: Models, values: dict[str, Any], picture: bool) -> None:
    """Accept what the fields' own checks have accepted."""


def check_caption(models: Models, values: dict[str, Any], picture: bool) -> None:
    """Refuse options that the captioner cannot take."""
    assert models.captioner is not None
    check_options(models.captioner, values, ("prompt", "keep_prompt"))


def check_answer(models: Models, values: dict[str, Any], picture: bool) -> None:
    """Refuse options that the answerer cannot take, and choices that it cannot tell apart."""
    assert models.answerer is not None
    check_options(models.answerer, values, ("question", "choices"))
    if "choices" not in values:
        if values.get("stream") and not isinstance(values["question"], str):
            raise ValueError("stream needs one question; ask the others by themselves.")
        return
    if given := [name for name in values if name not in ("question", "choices")]:
        raise ValueError(f"{given[0]} does not go with choices, which are scored whole; leave one out.")
    values["choices"] = tell_apart("choices", values["choices"], models.answerer.processor)


def check_options(writer: TextWriter, values: dict[str, Any], others: Sequence[str]) -> None:
    """Refuse options of generation that cannot work together, or with `stream`."""
    options = {name: value for name, value in values.items() if name not in (*others, "stream")}
    writer.check_options(options)
    if values.get("stream"):
        options.pop("seed", None)
        check_stream(print, Hooks(), writer.model.generation_config.updated(**{"num_return_sequences": 1, **options}))


def check_embed(models: Models, values: dict[str, Any], picture: bool) -> None:
    """Refuse nothing to embed."""
    if "text" not in values and not picture:
        raise ValueError("There is nothing to embed; give an image, a text, or both.")


def check_search(models: Models, values: dict[str, Any], picture: bool) -> None:
    """Refuse nothing to look for, and two things."""
    if ("text" in values) == picture:
        raise ValueError("Search takes a text or an image; give one of the two.")


def caption(models: Models, asks: Sequence[Ask]) -> Results:
    """Caption the pictures of requests with equal options."""
    assert models.captioner is not None
    options = {name: value for name, value in asks[0].shared.items() if name != "stream"}
    prompt, keep = options.pop("prompt", None), options.pop("keep_prompt", True)
    prepared = models.captioner.options(prompt, keep, **options) | listening(models.captioner, asks)
    names = [ask.name for ask in asks]
    return [found.to_dict() for found in models.captioner.write({"pixel_values": stacked(asks)}, names, **prepared)]


def answer(models: Models, asks: Sequence[Ask]) -> Results:
    """Answer the questions of requests with equal options, each picture being encoded once."""
    answerer = models.answerer
    assert answerer is not None
    options = {name: value for name, value in asks[0].shared.items() if name not in ("stream", "choices")}
    options |= listening(answerer, asks)
    choices = asks[0].shared.get("choices")
    states, rows = answerer.encode(stacked(asks)), in_rows(asks, "question")
    found = []
    for part in split(rows, ROWS):
        questions, pictures = [question for _, question in part], chosen(states, part)
        if choices is None:
            found += answerer.write(pictures, questions, **options)
        else:
            found += answerer.pick(pictures, questions, choices)
    said = [one.to_dict() for one in found]
    results = []
    for number, ask in enumerate(asks):
        mine = [{**one, "image": ask.name} for (owner, _), one in zip(rows, said, strict=True) if owner == number]
        listed = [{name: value for name, value in one.items() if name != "image"} for one in mine]
        single = isinstance(ask.values["question"], str)
        results.append(mine[0] if single else {"image": ask.name, "answers": listed})
    return results


def match(models: Models, asks: Sequence[Ask]) -> Results:
    """Match pictures with texts; each picture and each text is encoded once."""
    matcher = models.matcher
    assert matcher is not None
    states, rows = matcher.encode(stacked(asks)), in_rows(asks, "text")
    features = matcher.project(states)
    distinct = list(dict.fromkeys(text for _, text in rows))
    encoded = [matcher.text_features(part) for part in split(distinct, ROWS)]
    by_text = dict(zip(distinct, np.concatenate(encoded), strict=True))
    parts = [matcher.match(chosen(states, part), [text for _, text in part]) for part in split(rows, ROWS)]
    logits, owners = np.concatenate(parts), np.array([owner for owner, _ in rows])
    results = []
    for number, ask in enumerate(asks):
        mine, listed = logits[owners == number], tuple(own_texts(ask, "text"))
        similar = np.stack([by_text[text] for text in listed]) @ features[number]
        results.append(Match(ask.name, listed, softmax(mine)[:, 1], similar, mine).to_dict())
    return results


def embed(models: Models, asks: Sequence[Ask]) -> Results:
    """Encode pictures and texts as features; `model` says which may be compared with each other."""
    matcher = models.matcher
    assert matcher is not None
    pictures = [ask for ask in asks if ask.pixels is not None]
    of_pictures = iter(matcher.project(matcher.encode(stacked(pictures)))) if pictures else iter(())
    rows = in_rows(asks, "text")
    of_texts = iter([row for part in split(rows, ROWS) for row in matcher.text_features([text for _, text in part])])
    results = []
    for ask in asks:
        result: dict[str, Any] = {"model": matcher.features_identity}
        if ask.pixels is not None:
            result |= {"image": ask.name, "features": next(of_pictures).tolist()}
        if "text" in ask.values:
            texts = own_texts(ask, "text")
            result["texts"] = [{"text": text, "features": next(of_texts).tolist()} for text in texts]
        results.append(result)
    return results


def search(models: Models, asks: Sequence[Ask]) -> Results:
    """Search the index as it is; names of pictures are relative to their folder."""
    searcher = models.searcher
    assert searcher is not None
    top, best = asks[0].shared.get("top", 10), asks[0].shared.get("rerank", RERANK)
    texts = [own_texts(ask, "text")[0] for ask in asks if ask.pixels is None]
    queries = embed(models, asks)
    features = [query["features"] if "features" in query else query["texts"][0]["features"] for query in queries]
    hits = searcher.search(np.array(features, np.float32), max(top, best))
    of_texts = [found for ask, found in zip(asks, hits, strict=True) if ask.pixels is None]
    for _ in searcher.rerank(texts, of_texts, best):
        pass
    results = []
    for ask, found in zip(asks, hits, strict=True):
        query = {"text": ask.values["text"]} if ask.pixels is None else {"like": ask.name}
        listed = [
            {"rank": rank, "image": hit.name, "score": hit.score, "itm": hit.itm, "itc": hit.itc}
            for rank, hit in enumerate(found[:top], 1)
        ]
        results.append({**query, "results": listed})
    return results


def listening(writer: TextWriter, asks: Sequence[Ask]) -> dict[str, Any]:
    """The keyword of `generate` that tells each request its new tokens, if they are wanted."""
    if asks[0].listener is None:
        return {}
    tokenizer = writer.processor.tokenizer
    known: list[list[int]] = [[] for _ in asks]
    special = set(tokenizer.all_special_ids)

    def stream(row: int, token: int) -> None:
        listener: Callable[[dict[str, Any]], None] | None = asks[row].listener
        if token not in special and listener is not None:
            known[row].append(token)
            text = writer.processor.decode(known[row], skip_special_tokens=True)
            listener({"token": tokenizer.convert_ids_to_tokens([token])[0], "text": text})

    return {"stream": stream}


def stacked(asks: Sequence[Ask]) -> np.ndarray:
    """The pictures of requests, float32 (requests, 3, height, width)."""
    return np.stack([ask.pixels for ask in asks if ask.pixels is not None])


def own_texts(ask: Ask, name: str) -> list[str]:
    """The texts of a request as a list."""
    value = ask.values.get(name, [])
    return [value] if isinstance(value, str) else value


def in_rows(asks: Sequence[Ask], name: str) -> list[tuple[int, str]]:
    """All texts of requests, each with the number of its request."""
    return [(number, text) for number, ask in enumerate(asks) for text in own_texts(ask, name)]


def chosen(states: np.ndarray, rows: Sequence[tuple[int, str]]) -> np.ndarray:
    """The image embeddings of rows; of one picture for all, whose keys and values are then computed once."""
    owners = [owner for owner, _ in rows]
    return states[owners[:1]] if len(set(owners)) == 1 else states[owners]
