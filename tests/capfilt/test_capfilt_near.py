"""Near-duplicates: found by features, the same ones however the work is divided, and told of."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from blip_core.capfilt import capfilt, near_duplicates, pipeline
from blip_core.datasets import open_dataset
from blip_core.inference.cells import find_cells
from tests.helpers.capfilt_runs import FRAMEWORKS, ROOT, contents, lines, load
from tests.helpers.frameworks import INSTALLED


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """Four pictures, each three times: as a file, as a copy of it, and with the same pixels in another format."""
    root, noise = tmp_path_factory.mktemp("alike"), np.random.default_rng(7)
    for number in range(4):
        pixels = noise.integers(0, 256, 3) + noise.integers(-120, 120, (4, 4, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((32, 32))
        image.save(root / f"{number}.png")
        image.save(root / f"{number}.bmp")
        shutil.copy(root / f"{number}.png", root / f"copy-{number}.png")
    names = [form.format(number) for form in ("{}.png", "copy-{}.png", "{}.bmp") for number in range(4)]
    entries = [{"image": name, "caption": "a dog"} for name in names]
    (root / "data.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return root / "data.jsonl"


def drop(output):
    """Which line was dropped for another, why and for which."""
    found = [line for line in lines(output, "dropped") if line["reason"] in ("duplicate", "near-duplicate")]
    return [(line["key"].split(":")[1], line["reason"], line["detail"].split(",")[0].split(":")[1]) for line in found]


def plainly(features, limit):
    """What `find_near` says, row by row."""
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    stay, found = [], {}
    for at, row in enumerate(rows):
        first = next((other for other in stay if row @ rows[other] >= limit - near_duplicates.EDGE), None)
        if first is not None:
            found[at] = first
        elif row.any():
            stay.append(at)
    return found


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("limit", [0.5, 0.9, 1])
def test_the_first_stays_and_those_like_it_go(monkeypatch, chunk, limit):
    noise = np.random.default_rng(1)
    middles = noise.normal(size=(20, 8))
    features = middles[noise.integers(0, 20, 300)] + noise.normal(size=(300, 8)) * noise.choice([0, 0.1, 0.5], (300, 1))
    features[[0, 5, 250]] = 0
    features = features.astype(np.float16)
    monkeypatch.setattr(near_duplicates, "CHUNK", chunk)
    found = near_duplicates.find_near(features, limit)
    assert {at: first for at, (first, _) in found.items()} == plainly(features, limit)
    assert 30 < len(found) < 297
    assert all(cosine >= limit - near_duplicates.EDGE for _, cosine in found.values())


def clusters(count=6000, width=32):
    """Features, float16, of which a third are look-alikes of others, at cosines around 0.95."""
    noise = np.random.default_rng(3)
    rows = noise.normal(size=(60, width))[noise.integers(0, 60, count)] + noise.normal(size=(count, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    copies = noise.random(count) < 0.33
    strength = noise.uniform(0, 0.45, (copies.sum(), 1)) / width**0.5
    rows[copies] = rows[noise.integers(0, count, copies.sum())] + noise.normal(size=(copies.sum(), width)) * strength
    return rows.astype(np.float16)


def test_cells_find_nearly_all_that_comparing_all_finds(monkeypatch):
    pytest.importorskip("faiss")
    features = clusters()
    features[[0, 17, 4000]] = 0
    exact = near_duplicates.find_near(features, 0.95)
    middles = find_cells(features, "it")
    assert middles.shape == (309, 32)
    found = near_duplicates.find_near_in_cells(features, 0.95, middles)
    assert len(exact) > 1000
    assert len(exact.keys() & found.keys()) >= 0.99 * len(exact)
    assert sum(found[at][0] == first for at, (first, _) in exact.items() if at in found) >= 0.98 * len(exact)
    assert all(cosine >= 0.95 - near_duplicates.EDGE for _, cosine in found.values())
    for chunk in (100, 777):  # which rows are looked at together changes nothing
        monkeypatch.setattr(near_duplicates, "CHUNK", chunk)
        again = near_duplicates.find_near_in_cells(features, 0.95, middles)
        assert again.keys() == found.keys()
        assert all(again[at] == (first, pytest.approx(cosine, abs=1e-5)) for at, (first, cosine) in found.items())


def test_cells_follow_from_the_features_and_not_from_their_order():
    pytest.importorskip("faiss")
    features = clusters(2000)
    order = np.random.default_rng(0).permutation(len(features))
    assert np.array_equal(find_cells(features, "it"), find_cells(features[order], "it"))


def test_cells_of_a_run_are_the_same_however_it_is_divided(blip, alike, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    options = ("--near-duplicates", "1", "--threshold", "0")
    assert blip(alike, tmp_path / "exact", *options)[0] == 0
    expected = drop(tmp_path / "exact")
    assert blip(alike, tmp_path / "cells", *options, "--compare", "cells", "--shard-size", "4")[0] == 0
    assert drop(tmp_path / "cells") == expected
    assert (tmp_path / "cells/cells.npy").exists()
    for share in ("2/2", "1/2"):
        more = ("--compare", "cells", "--shard-size", "4", "--shards", share)
        assert blip(alike, tmp_path / "shares", *options, *more)[0] == 0
    assert contents(tmp_path / "shares") == contents(tmp_path / "cells")
    (tmp_path / "shares/cells.npy").write_bytes(b"broken")
    (tmp_path / "shares/kept/00002.jsonl").unlink()
    code, _, err = blip(alike, tmp_path / "shares", *options, "--compare", "cells", "--shard-size", "4")
    assert (code, "cells.npy is damaged" in err) == (1, True)
    monkeypatch.setattr(pipeline, "MOST_EXACT", 5)  # which "auto" compares in cells beyond
    assert blip(alike, tmp_path / "auto", *options)[0] == 0
    assert (tmp_path / "auto/cells.npy").exists()
    monkeypatch.setitem(sys.modules, "faiss", None)
    code, _, err = blip(alike, tmp_path / "without", *options)
    assert (code, 'pip install "blip-duo[faiss]", or use --compare exact' in err) == (1, True)
    assert not (tmp_path / "without").exists()
    with pytest.raises(SystemExit):
        blip(alike, tmp_path / "without", "--compare", "cells")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_near_duplicates_are_dropped(models, alike, tmp_path, framework, monkeypatch):
    loaded, encoded = load(models, framework), []
    for used in (loaded.captioner, loaded.matcher):
        monkeypatch.setattr(
            used, "encode", lambda pixels, encode=used.encode: (encoded.append(len(pixels)), encode(pixels))[1]
        )
    dataset = open_dataset(alike, "caption")
    expected = [(str(5 + n), "duplicate", str(1 + n)) for n in range(4)]
    expected += [(str(9 + n), "near-duplicate", str(1 + n)) for n in range(4)]
    for number, (size, shard_size) in enumerate([(8, 100), (3, 5), (1, 1)]):
        out, encoded[:] = tmp_path / str(number), []
        options = {"batch_size": size, "shard_size": shard_size, "threshold": 0}
        result = capfilt(dataset, loaded, out, near_duplicates=1, **options)
        assert sum(encoded) == 2 * [8, 11, 12][number]  # by each model once, and copies in other shards, too
        assert drop(out) == expected
        assert result.counts["pictures"] == {"kept": 4, "duplicate": 4, "near-duplicate": 4}
        assert "looks the same came before" in result.report.read_text()
        features = np.concatenate([np.load(path) for path in sorted(out.glob("features/*.npy"))])
        assert (features.shape, features.dtype) == ((12, 8), np.float16)
    tried = capfilt(dataset, loaded, tmp_path / "try", near_duplicates=1, threshold=0, dry_run=12)
    assert tried.counts["pictures"]["near-duplicate"] == 4
    capfilt(dataset, loaded, tmp_path / "without", threshold=0)
    assert {reason for _, reason, _ in drop(tmp_path / "without")} == {"duplicate"}
    assert not (tmp_path / "without/features").exists()


def test_a_picture_without_a_caption_that_matches_counts_for_no_other(models, alike, tmp_path):
    loaded, dataset = load(models, INSTALLED[0]), open_dataset(alike, "caption")
    capfilt(dataset, loaded, tmp_path / "all", threshold=0)
    best = {line["key"].split(":")[1]: max(line["score"]) for line in lines(tmp_path / "all", "kept")}
    pairs = [(str(1 + n), str(9 + n)) for n in range(4)]  # the same pixels, another draw of the captioner
    first, later = max(pairs, key=lambda pair: best[pair[1]] - best[pair[0]])
    assert best[later] > best[first]
    options = {"threshold": best[later], "near_duplicates": 1}
    for name, more in {"one": {}, "shards": {"shard_size": 1}, "try": {"dry_run": 12}}.items():
        result = capfilt(dataset, loaded, tmp_path / name, **options, **more)
        expected = {one for one in best if best[one] >= best[later]}
        expected -= {after for before, after in pairs if before in expected}
        assert later in expected
        assert result.counts["pictures"]["kept"] == len(expected)
        if not more.get("dry_run"):
            assert {line["key"].split(":")[1] for line in lines(tmp_path / name, "kept")} == expected
            assert (first, "near-duplicate") not in [found[:2] for found in drop(tmp_path / name)]


def test_shares_and_missing_shards(blip, alike, tmp_path):
    options = ("--near-duplicates", "1", "--shard-size", "4", "--threshold", "0")
    assert blip(alike, tmp_path / "one", *options)[0] == 0
    for share in ("2/2", "1/2"):
        assert blip(alike, tmp_path / "many", *options, "--shards", share)[0] == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    (tmp_path / "many/kept/00002.jsonl").unlink()
    assert blip(alike, tmp_path / "many", *options)[0] == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    code, _, err = blip(alike, tmp_path / "many", "--shard-size", "4", "--threshold", "0")
    assert (code, "near_duplicates was 1.0, is None" in err) == (1, True)
    (tmp_path / "many/kept/00002.jsonl").unlink()
    (tmp_path / "many/features/00000.npy").write_bytes(b"")
    code, _, err = blip(alike, tmp_path / "many", *options)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "features/00000.npy is damaged" in err
    assert "remove scored/00000.jsonl and kept/00000.jsonl" in err


@pytest.mark.slow
def test_on_ray(blip, alike, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, how in (("here", []), ("ray", ["--ray"])):
        options = ("--near-duplicates", "1", "--shard-size", "5", "--threshold", "0", *how)
        assert blip(alike, tmp_path / name, *options)[0] == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    assert [reason for _, reason, _ in drop(tmp_path / "ray")].count("near-duplicate") == 4


def test_a_filter_without_contrastive_projections(blip, models, alike, tmp_path):
    shutil.copytree(models / "filter", tmp_path / "filter")
    weights = load_file(tmp_path / "filter/model.safetensors")
    rest = {name: value for name, value in weights.items() if not name.startswith(("vision_proj.", "text_proj."))}
    assert len(rest) == len(weights) - 4
    save_file(rest, tmp_path / "filter/model.safetensors", {"format": "pt"})
    code, out, err = blip(alike, tmp_path / "out", "--near-duplicates", "0.9", matcher=tmp_path / "filter")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "the checkpoint does not fit a BlipForImageTextRetrieval" in err
    assert "missing: text_proj.bias, text_proj.weight, vision_proj.bias, vision_proj.weight" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["0", "1.1", "nan", "x"])
def test_limits_that_are_none(blip, alike, tmp_path, value, capfd):
    with pytest.raises(SystemExit, match="2"):
        blip(alike, tmp_path / "out", f"--near-duplicates={value}")
    assert "--near-duplicates: must be a number above 0 and up to 1" in capfd.readouterr().err
    with pytest.raises(ValueError, match="near_duplicates must be None or a number above 0 and up to 1"):
        capfilt(
            open_dataset(alike, "caption"),
            None,
            tmp_path / "out",
            near_duplicates=float(value) if value != "x" else value,
        )
