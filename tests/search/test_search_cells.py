"""Search in cells of an index: nearly what comparing all finds, also after pictures were added and removed."""

import sys

import numpy as np
import pytest

from blip_core.search import FeatureIndex, Searcher, find, searcher
from blip_core.search.index_cells import CELL_OF, MIDDLES

pytest.importorskip("faiss")
WIDTH = 24


def features(count, seed=0):
    noise = np.random.default_rng(seed)
    rows = noise.normal(size=(40, WIDTH))[noise.integers(0, 40, count)] + noise.normal(size=(count, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def index(tmp_path):
    """An index of 3000 pictures in cells."""
    with FeatureIndex(tmp_path / "index", tmp_path, "model", WIDTH) as index:
        index.add({f"{n}.png": ("", 0) for n in range(3000)}, features(3000))
        index.divide()
        yield index


def compare(index, queries, k=10):
    """The share of the k nearest that cells find, and how many rows they compare."""
    entries = index.entries()
    rows = np.array([entry.row for entry in entries.values()])
    exact = find(queries, index.features, entries, k)
    found = find(queries, index.features, entries, k, index.cells)
    names = [{hit.name for hit in hits} for hits in (*exact, *found)]
    both = [len(one & other) for one, other in zip(names[: len(exact)], names[len(exact) :], strict=True)]
    return np.mean(both) / k, len(index.cells.near(queries[:1], rows, k))


def test_the_nearest_are_found_among_few(index, monkeypatch):
    monkeypatch.setattr("blip_core.search.index_cells.PROBES", 24)
    share, compared = compare(index, features(50, seed=1))
    assert share >= 0.95
    assert compared < 1200
    entries = index.entries()
    hits = find(features(2, seed=1), index.features, entries, 2500, index.cells)  # more than these cells have
    assert [len(found) for found in hits] == [2500, 2500]


def test_what_was_added_or_replaced_since_is_found(index):
    new = features(20, seed=5)
    index.add({f"{n}.png": ("new", 0) for n in range(10)} | {f"new-{n}.png": ("", 0) for n in range(10)}, new)
    index.remove(["20.png"])
    hits = find(new, index.features, index.entries(), 1, index.cells)
    assert [found[0].name for found in hits] == [f"{n}.png" for n in range(10)] + [f"new-{n}.png" for n in range(10)]
    rows = np.array([entry.row for entry in index.entries().values()])
    assert not index.cells.outdated(rows)
    index.add({f"more-{n}.png": ("", 0) for n in range(500)}, features(500, seed=6))
    rows = np.array([entry.row for entry in index.entries().values()])
    assert index.cells.outdated(rows)


@pytest.mark.parametrize("name", [MIDDLES, CELL_OF])
@pytest.mark.parametrize("damage", [b"", b"broken", None, "type", "width"])
def test_damaged_cells_are_not_used(index, name, damage):
    path = index.path / name
    if damage is None:
        path.unlink()
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        np.save(path, np.zeros((4, 5) if damage == "width" else 4, np.float32 if damage == "width" else "S4"))
    assert compare(index, features(3, seed=1))[0] == 1
    assert index.cells.outdated(np.arange(3000))
    index.add({"new.png": ("", 0)}, features(1, seed=9))


def test_cells_of_no_picture_are_not_trusted(index):
    np.save(index.path / CELL_OF, np.full(3000, 2**30, np.int32))
    assert compare(index, features(3, seed=1))[0] == 1


class Matcher:
    """What a search of features needs of a matcher."""

    width, features_identity = WIDTH, "model"

    def __init__(self):
        self.processor = None


def test_a_searcher_divides_what_is_too_much(index, tmp_path, monkeypatch):
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(b"")

    def search(compare):
        with Searcher(Matcher(), tmp_path, index=index.path, compare=compare) as found:
            return [hit.name for hit in found.search(features(1, seed=1), 5)[0]]

    monkeypatch.setattr("blip_core.search.index_cells.PROBES", 10_000)
    index.cells.forget()
    exact = search("exact")
    assert search("auto") == exact
    assert not (index.path / CELL_OF).exists()
    assert search("cells") == exact
    assert (index.path / CELL_OF).exists()
    index.cells.forget()
    monkeypatch.setattr(searcher, "MOST_EXACT", 10)
    assert search("auto") == exact
    assert (index.path / CELL_OF).exists()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r'Searching in cells needs FAISS.*pip install "blip-duo\[faiss\]"'):
        search("cells")
    monkeypatch.setattr(searcher, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="30 pictures are compared one by one"):
        assert search("auto") == exact
    with pytest.raises(ValueError, match="compare must be"):
        search("all")
