"""Search over features, the index on disk, and the matcher that makes features, without the command line."""

import copy
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from blip_core.inference import Matcher
from blip_core.search import FeatureIndex, Hit, Searcher, candidates, find, nearest, neighbours, rerank
from blip_core.search.feature_index import Entry
from tests.helpers.frameworks import FRAMEWORKS
from tests.helpers.random_models import CONFIGS_OF, difference
from tests.helpers.tensorflow_models import models
from tests.helpers.tensorflow_models import numpy as as_numpy

WIDTH = 6


def normalized(*shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.fixture
def index(tmp_path):
    """An index of ten pictures, and their features."""
    index = FeatureIndex(tmp_path / "index", tmp_path, "model", WIDTH)
    index.add({f"{i}.png": (f"stamp {i}", 0) for i in range(10)}, normalized(10, WIDTH))
    return index


def reopened(index, model="model", folder=None, width=WIDTH):
    index.close()
    return FeatureIndex(index.path, folder or index.path.parent, model, width)


@pytest.mark.parametrize("chunk", [3, 7, 1000])
@pytest.mark.parametrize("rows", [None, [0, 1, 2, 3, 8, 9, 30, 31, 32, 49]])
def test_nearest_is_exact(monkeypatch, chunk, rows):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    queries, features = normalized(4, WIDTH, seed=1), normalized(50, WIDTH)
    features[31] = features[8]  # equal: the first comes first
    rows = None if rows is None else np.array(rows)
    allowed = np.arange(50) if rows is None else rows
    for k in (1, 6, 10, 99):
        found, similarities = nearest(queries, features, k, rows)
        for query, numbers, values in zip(queries, found, similarities, strict=True):
            exact = features[allowed] @ query
            order = np.argsort(-exact, kind="stable")[:k]
            assert numbers.tolist() == allowed[order].tolist()
            np.testing.assert_allclose(values, exact[order], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0])
def test_features_that_are_none_are_refused(bad):
    features = normalized(5, WIDTH)
    features[3] = bad
    with pytest.raises(ValueError, match="not normalised"):
        nearest(normalized(2, WIDTH, seed=1), features, 2)


def test_nothing_is_found_among_nothing():
    found, similarities = nearest(normalized(2, WIDTH), np.empty((0, WIDTH), np.float32), 3)
    assert found.shape == similarities.shape == (2, 0)


def test_the_order_of_rank_is_matched_first_then_by_similarity():
    class Echo:
        def match(self, states, texts):
            return np.array([[0.0, float(states[0]) + len(text)] for text in texts])

    hits = [[Hit("a", 0.3), Hit("b", 0.2), Hit("c", 0.1)], [Hit("c", 0.5), Hit("a", 0.4), Hit("b", 0.1)]]
    assert candidates(hits, 2) == {"a": [0, 1], "b": [0], "c": [1]}
    embeds = [("b", np.array([-5.0])), ("a", np.array([-9.0])), ("c", np.array([-2.0]))]
    assert list(rerank(Echo(), ["x", "xyz"], hits, 2, embeds)) == ["b", "a", "c"]
    assert [[hit.name for hit in found] for found in hits] == [["b", "a", "c"], ["c", "a", "b"]]
    best = hits[0][0]
    assert best.score == pytest.approx(-3.8)
    assert best.itm == pytest.approx(1 / (1 + np.exp(4.0)))
    assert (hits[0][2].score, hits[0][2].itm) == (0.1, None)


def test_an_index_keeps_what_it_was_given(index):
    index = reopened(index)
    entries = index.entries()
    assert entries == {f"{i}.png": Entry(f"stamp {i}", 0, i) for i in range(10)}
    np.testing.assert_array_equal(index.features, normalized(10, WIDTH))
    assert isinstance(index.features, np.memmap)
    np.testing.assert_array_equal(np.load(index.path / "blip-features.npy"), normalized(10, WIDTH))
    ((hit,),) = find(normalized(10, WIDTH)[4:5], index.features, entries, 1)
    assert hit.name == "4.png"


def test_rows_of_removed_pictures_are_used_again(index):
    index.remove(["2.png", "5.png", "no such"])
    index.add({"new": ("x", 8), "7.png": ("changed", 0), "more": ("y", 0)}, normalized(3, WIDTH, seed=1))
    entries = reopened(index).entries()
    assert {name: entries[name] for name in ("new", "7.png", "more")} == {
        "new": Entry("x", 8, 2), "7.png": Entry("changed", 0, 5), "more": Entry("y", 0, 10),
    }  # fmt: skip
    assert len(entries) == 10
    index = reopened(index)
    np.testing.assert_array_equal(index.features[[2, 5, 10]], normalized(3, WIDTH, seed=1))
    index.add({"last": ("z", 0)}, normalized(1, WIDTH, seed=2))
    assert index.entries()["last"].row == 7
    assert len(index.features) == 11


def test_names_may_be_any_bytes(index):
    index.add({"\udcff \n'ü.png": ("x", 0)}, normalized(1, WIDTH))
    assert "\udcff \n'ü.png" in reopened(index).entries()


def test_a_run_that_dies_while_writing_loses_no_earlier_feature(index, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureIndex, "_release", die)  # the features are on the disk, the database is not
    with pytest.raises(KeyboardInterrupt):
        index.add({"3.png": ("changed", 0), "new": ("x", 0)}, normalized(2, WIDTH, seed=1))
    monkeypatch.undo()
    index = reopened(index)
    assert index.entries() == {f"{i}.png": Entry(f"stamp {i}", 0, i) for i in range(10)}
    np.testing.assert_array_equal(index.features[:10], normalized(10, WIDTH))
    index.add({"new": ("x", 0)}, normalized(1, WIDTH, seed=2))
    assert index.entries()["new"].row == 10


def test_two_runs_may_add_at_once(index, monkeypatch):
    def add(name):
        with FeatureIndex(index.path, index.path.parent, "model", WIDTH) as other:
            other.add({name: ("x", 0)}, normalized(1, WIDTH, seed=1))

    second, write = threading.Thread(target=add, args=["second"]), FeatureIndex._write

    def interrupted(self, rows, features):
        if not second.ident:
            second.start()
            second.join(0.2)  # it waits for us
        write(self, rows, features)

    monkeypatch.setattr(FeatureIndex, "_write", interrupted)
    index.add({"first": ("x", 0)}, normalized(1, WIDTH, seed=2))
    second.join()
    entries = index.entries()
    assert (entries["first"].row, entries["second"].row) == (10, 11)
    np.testing.assert_array_equal(index.features[10:], [normalized(1, WIDTH, seed=seed)[0] for seed in (2, 1)])


def test_features_of_other_models_and_folders_are_not_mixed(index, tmp_path):
    with pytest.raises(ValueError, match="made by another model"):
        reopened(index, model="other")
    with pytest.raises(ValueError, match="made by another model"):
        reopened(index, width=WIDTH + 1)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"is of the pictures in .*, not in .*other"):
        reopened(index, folder=tmp_path / "other")
    with pytest.raises(ValueError, match="shape"):
        reopened(index).add({"a": ("x", 0)}, normalized(1, WIDTH + 1))


def sql(statement):
    def change(index: Path):
        with sqlite3.connect(index / "blip-index.sqlite") as database:
            database.execute(statement)

    return change


def bytes_of(name, change):
    def edit(index: Path):
        path = index / name
        path.write_bytes(change(path.read_bytes()))

    return edit


NPY, SQLITE = "blip-features.npy", "blip-index.sqlite"


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: (index / NPY).unlink(),
        bytes_of(NPY, lambda data: data[:-30]),
        bytes_of(NPY, lambda data: data[:100]),
        bytes_of(NPY, lambda data: data.replace(b"<f4", b"<f8")),
        bytes_of(NPY, lambda data: data.replace(b"<f4", b"|O8")),
        bytes_of(NPY, lambda data: data.replace(b"(10, 6)", b"(15, 4)")),
        bytes_of(NPY, lambda data: b"\x80" + data[1:]),
        bytes_of(SQLITE, lambda data: data[:5000]),
        bytes_of(SQLITE, lambda data: b"x" * len(data)),
        sql("CREATE TABLE more (x)"),
        sql("CREATE TRIGGER t AFTER INSERT ON pictures BEGIN DELETE FROM pictures; END"),
        sql("DROP TABLE free"),
        sql("PRAGMA user_version = 2"),
        sql("DELETE FROM made WHERE name = 'model'"),
        sql("UPDATE made SET value = 5 WHERE name = 'model'"),
        sql("UPDATE pictures SET row = 10 WHERE row = 3"),
        sql("UPDATE pictures SET row = -1 WHERE row = 3"),
        sql("UPDATE pictures SET row = 'three' WHERE row = 3"),
        sql("UPDATE pictures SET name = 5 WHERE row = 3"),
        sql("UPDATE pictures SET stamp = x'ff' WHERE row = 3"),
        sql("UPDATE pictures SET frames = 'many' WHERE row = 3"),
        sql("INSERT INTO free VALUES (-1)"),
        sql("INSERT INTO free VALUES (1000000000000)"),
    ],
)
def test_a_damaged_or_hostile_index_is_refused(index, damage):
    index.close()
    damage(index.path)
    with pytest.raises(ValueError, match=r"The index .* is damaged: .*--rebuild"):  # noqa: PT012
        index = reopened(index)
        index.entries()
        index.add({"new": ("x", 0)}, normalized(1, WIDTH))


def test_the_number_of_rows_in_the_header_is_not_trusted(index):
    bytes_of(NPY, lambda data: data.replace(b"(10, 6), }            ", b"(99999999999, 6), }   "))(index.path)
    index = reopened(index)
    assert index.features.shape == (10, WIDTH)


def test_an_index_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / SQLITE).mkdir()
    with pytest.raises(OSError, match="cannot be used"):
        FeatureIndex(tmp_path, tmp_path, "model", WIDTH)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A matcher of the same weights in each framework."""
    from blip_core import BlipImageProcessor, BlipProcessor, BlipTokenizer

    config = CONFIGS_OF["wide"]
    words = ["[PAD]", *(f"[unused{i}]" for i in range(1, 5)), "[SEP]", "[CLS]", "[UNK]", "[MASK]", "a", "red", "cat"]
    vocabulary = [*words, *(f"[unused{i}]" for i in range(len(words), 88)), "[DEC]", "[ENC]"]
    folder = tmp_path_factory.mktemp("twins")
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    pt, tf = models("BlipForImageTextRetrieval", config, folder / "model")
    processor = BlipProcessor(BlipImageProcessor(size=32), BlipTokenizer.from_pretrained(folder))
    return {"pt": Matcher(pt, processor), "tf": Matcher(tf, processor)}


TEXTS = ["a cat", "red", "a red red cat"]


def items(*counts):
    noise = np.random.default_rng(0)
    return [noise.normal(size=(count, 3, 32, 32)).astype(np.float32) for count in counts]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_features_are_the_models(twins, framework):
    matcher, ask = twins[framework], FRAMEWORKS[framework].ask
    pictures = items(1, 1, 1, 1)
    expected = ask(matcher.model.get_image_features, {"pixel_values": np.concatenate(pictures)})
    assert difference(expected, matcher.item_features(pictures)) < 1e-6
    tokens = matcher.processor(text=TEXTS, padding=True, return_tensors="np")
    expected = ask(matcher.model.get_text_features, dict(tokens))
    assert difference(expected, matcher.text_features(TEXTS)) < 1e-6


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_video_is_the_mean_of_its_frames_and_all_their_tokens(twins, framework):
    """ITC: projections are averaged, then normalised. ITM: the tokens of the frames in a row."""
    matcher, ask = twins[framework], FRAMEWORKS[framework].ask
    given = items(1, 4, 2)
    features, embeds = matcher.item_features(given), matcher.item_states(given)
    tokens = dict(matcher.processor(text=TEXTS, padding=True, return_tensors="np"))
    for item, feature, states in zip(given, features, embeds, strict=True):
        frames = ask(matcher.model.vision_model, {"pixel_values": item}).last_hidden_state
        mean = as_numpy(matcher.model.vision_proj(frames[:, 0])).mean(axis=0)
        assert difference(mean / np.linalg.norm(mean), feature) < 1e-6
        joined = as_numpy(frames).astype(np.float32).reshape(1, -1, frames.shape[-1])
        assert difference(joined, states) < 1e-6
        expected = ask(matcher.model, {"image_embeds": joined, **tokens}).itm_score
        assert difference(expected, matcher.match(joined, TEXTS)) == 0
    normalised_first = matcher.item_features([frame[None] for frame in given[1]]).mean(axis=0)
    assert difference(normalised_first / np.linalg.norm(normalised_first), features[1]) > 1e-4


def test_both_frameworks_agree(twins):
    pt, tf = twins.values()
    given = items(1, 4)
    assert difference(pt.item_features(given), tf.item_features(given)) < 1e-5
    assert difference(pt.match(pt.item_states(given)[1], TEXTS), tf.match(tf.item_states(given)[1], TEXTS)) < 1e-5


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_keys_and_values_of_a_picture_are_made_once_for_all_texts(twins, framework, monkeypatch):
    matcher, calls = twins[framework], []
    blocks = list(matcher.model.text_encoder.encoder.layer)
    kind = type(blocks[0].crossattention)
    made = kind.keys_values
    monkeypatch.setattr(kind, "keys_values", lambda self, states: calls.append(states.shape) or made(self, states))
    (states,) = matcher.item_states(items(2))
    matcher.match(states, TEXTS)
    cross = [tuple(shape) for shape in calls if shape[-1] == 24]  # the width of vision
    assert cross == [(1, 34, 24)] * len(blocks)


def test_identity_is_of_the_vision_side_and_the_same_in_both_frameworks(twins, tmp_path):
    import torch

    from blip_core import BlipImageProcessor, BlipProcessor
    from blip_pt import BlipForImageTextRetrieval

    pt, tf = twins.values()
    assert pt.features_identity == tf.features_identity
    assert len(pt.features_identity) == 32
    pt.model.save_pretrained(tmp_path)

    def identity(change=lambda model: None, processor=pt.processor, **options):
        model = BlipForImageTextRetrieval.from_pretrained(tmp_path, **options)
        with torch.no_grad():
            change(model)
        return Matcher(model, processor).features_identity

    assert identity() == pt.features_identity
    assert identity(lambda model: model.itm_head.weight.add_(1)) == pt.features_identity
    others = {
        identity(lambda model: model.vision_proj.weight[0, 0].add_(1)),
        identity(lambda model: model.vision_model.encoder.layers[2].layer_norm1.bias[3].add_(1e-6)),
        identity(image_size=64),
        identity(dtype="bfloat16"),
        identity(config={"vision_config": {"layer_norm_eps": 1e-6}}),
        identity(processor=BlipProcessor(BlipImageProcessor(size=32, resample=2), pt.processor.tokenizer)),
    }
    assert len(others | {pt.features_identity}) == 7


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_other_models_are_refused(twins, framework):
    with pytest.raises(ValueError, match="needs a BlipForImageTextRetrieval"):
        Matcher(FRAMEWORKS[framework].of("BlipForConditionalGeneration")(CONFIGS_OF["wide"]), twins["pt"].processor)


def test_a_model_in_training_drops_nothing_out(twins):
    matcher = Matcher(copy.deepcopy(twins["pt"].model), twins["pt"].processor)
    parts = [module for module in matcher.model.modules() if hasattr(module, "hidden_dropout")]
    for part in parts:
        part.hidden_dropout = 0.5
    matcher.model.train()
    assert parts
    (states,) = matcher.item_states(items(1))
    assert np.array_equal(matcher.match(states, TEXTS), twins["pt"].match(states, TEXTS))
    assert matcher.model.training


def test_a_searcher_keeps_its_index_up_to_date(twins, tmp_path):
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(photos / f"{number}.png")
    (photos / "bad.png").write_bytes(b"this is no picture")
    matcher = twins["pt"]
    with Searcher(matcher, photos, index=tmp_path / "index", batch_size=2) as searcher:
        found = list(searcher.update())
        assert [name for name, error in found if error is None] == [f"{number}.png" for number in range(5)]
        assert [(name, type(error)) for name, error in found if error] == [("bad.png", OSError)]
        assert searcher.outdated() == ["bad.png"]
        hits = searcher(["a cat"], [photos / "3.png"], top=2, rerank=3)
        assert [len(found) for found in hits] == [2, 2]
        assert hits[1][0].name == "3.png"
        assert hits[1][0].itc == pytest.approx(1, abs=1e-6)
        match = matcher(photos / hits[0][0].name, "a cat")
        assert hits[0][0].itc == pytest.approx(match.itc[0], abs=1e-6)
        assert hits[0][0].itm == pytest.approx(match.itm[0], abs=1e-6)
    (photos / "3.png").unlink()
    with Searcher(matcher, photos, index=tmp_path / "index") as searcher:
        assert [name for name, _ in searcher.update()] == ["bad.png"]
        assert {hit.name for hit in searcher(["red"], top=9)[0]} == {"0.png", "1.png", "2.png", "4.png"}
    with pytest.raises(ValueError, match="no pictures in this folder"):
        Searcher(matcher, tmp_path / "index")
