"""Which library multiplies: measured once for a class of shapes, remembered in the cache folder, and switched off."""

from __future__ import annotations

import pytest
import torch

from blip_core.files import read_json, write_json
from blip_pt import nn, products

pytestmark = pytest.mark.skipif(not products.HAS_ONEDNN, reason="there is one library alone")
WEIGHT = torch.empty(8, 6)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BLIP_MEASURE", raising=False)
    products._remembered.cache_clear()
    yield tmp_path / "blip" / "products"
    products._remembered.cache_clear()


@pytest.fixture
def measured(monkeypatch):
    """What was measured, in order; the last way that is allowed wins."""
    seen = []

    def measure(rows, out, into, ways):
        seen.append((rows, out, into))
        return ways[-1]

    monkeypatch.setattr(products, "measure", measure)
    return seen


def test_a_class_of_shapes_is_measured_once_and_remembered(cache, measured):
    ways = [products.best_way(rows, WEIGHT) for rows in (0, 1, 1, 5, 7, 577, 4000)]
    assert set(ways) == {"onednn"}
    assert measured == [(1, 8, 6), (4, 8, 6), (128, 8, 6)]
    assert products.best_way(5, WEIGHT, packing=True) == "packed"
    products._remembered.cache_clear()  # as in a new process
    assert products.best_way(5, WEIGHT) == "onednn"
    assert len(measured) == 4
    (file,) = cache.iterdir()
    assert products.chosen() == {
        "1 x 6 x 8": "onednn", "128 x 6 x 8": "onednn", "4 x 6 x 8": "onednn", "4 x 6 x 8, packed": "packed",
    }  # fmt: skip
    assert read_json(file)["torch"] == torch.__version__


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"1 x 6 x 8": "magic"}', b'{"1 x 6 x 8": ["torch"]}'])
def test_a_damaged_file_is_measured_again(cache, measured, content):
    products.best_way(1, WEIGHT)
    (file,) = cache.iterdir()
    file.write_bytes(content)
    products._remembered.cache_clear()
    assert products.best_way(1, WEIGHT) == "onednn"
    assert read_json(file)["1 x 6 x 8"] == "onednn"


def test_a_folder_that_cannot_be_written(cache, measured):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file")
    assert products.best_way(1, WEIGHT) == "onednn"


def test_it_can_be_switched_off(cache, measured, monkeypatch):
    monkeypatch.setenv("BLIP_MEASURE", "0")
    assert products.best_way(1, WEIGHT) == products.USUAL
    assert not measured
    assert not cache.exists()


def test_a_measurement_draws_nothing_from_the_global_generator_and_names_a_way():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert products.measure(2, 40, 30, list(products.WAYS)) in products.WAYS
    assert torch.equal(torch.get_rng_state(), before)


def test_the_way_is_taken(cache, monkeypatch):
    x, weight, bias = torch.randn(3, 300), torch.randn(260, 300), torch.randn(260)
    expected, taken = torch.nn.functional.linear(x, weight, bias), []
    onednn = nn.onednn
    monkeypatch.setattr(nn, "onednn", lambda *given: taken.append(given) or onednn(*given))
    for way, count in (("torch", 0), ("onednn", 1)):
        monkeypatch.setattr(nn, "best_way", lambda rows, weight, way=way: way)
        with torch.no_grad():
            assert (nn.linear(x, weight, bias) - expected).abs().max() < 1e-3
        assert len(taken) == count


def test_a_file_of_another_machine_is_not_read(cache, measured, monkeypatch):
    products.best_way(1, WEIGHT)
    monkeypatch.setattr(products, "_processor", lambda: "another")
    products._remembered.cache_clear()
    products.best_way(1, WEIGHT)
    assert len(measured) == len(list(cache.iterdir())) == 2
    for file in cache.iterdir():
        write_json(file, {})


@pytest.mark.parametrize(("seconds", "way"), [(0.95, "onednn"), (0.8, "torch")])
def test_another_way_than_the_usual_one_must_be_clearly_faster(monkeypatch, seconds, way):
    spent = {"torch": seconds, "onednn": 1.0}
    clock, ways = [0.0], list(spent)
    calls = {name: (lambda x, weight, bias, name=name: clock.append(clock[-1] + spent[name])) for name in ways}
    monkeypatch.setattr(products, "WAYS", {name: (call, lambda weight: weight) for name, call in calls.items()})
    monkeypatch.setattr(products, "USUAL", "onednn")
    monkeypatch.setattr(products.time, "perf_counter", lambda: clock[-1])
    assert products.measure(2, 8, 6, ways) == way


def test_processes_that_measure_at_once_take_the_same_way(cache, monkeypatch):
    def measure(rows, out, into, ways):
        path = products._path(torch.get_num_threads())
        path.parent.mkdir(parents=True)
        write_json(path, {"1 x 6 x 8": "torch"})  # of the other process
        return "onednn"

    monkeypatch.setattr(products, "measure", measure)
    assert products.best_way(1, WEIGHT) == "torch"
