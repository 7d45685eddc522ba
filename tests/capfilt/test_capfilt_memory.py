"""The memory of an input: CapFilt and its data set hold some tens of bytes of each picture, whatever the format."""

import csv
import gc
import hashlib
import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core.capfilt import CapFilter, Captioning, capfilt
from blip_core.capfilt.cap_filter import PictureRead, Scored
from blip_core.datasets import open_dataset

SIZES = 500, 2500
MOST = 100  # bytes a picture


class Stub(CapFilter):
    """Models of the same memory for any picture."""

    identity = {"captioner": "stub"}  # noqa: RUF012  # as the property
    width = 4

    def __init__(self):
        self.captioning = Captioning()

    def read(self, picture):
        data = picture.read() if picture.member else Path(picture.path).read_bytes()  # not as much as may be
        return PictureRead(hashlib.blake2b(data, digest_size=16).hexdigest(), ())

    def __call__(self, pictures, captions):
        gc.collect()  # else garbage counts, which waits until there is much of it beside all modules
        found = [[*(Scored(text, "web", 0.7) for text in web), Scored("a dog", "synthetic", 0.9)] for web in captions]
        return found, np.ones((len(pictures), self.width), np.float16)


def write(folder, form, count):
    """So many pictures with a caption of 50 letters; returns what is opened."""
    name = f"data.{form}"
    texts = [f"picture {number:06} of a red dog on the sand of a beach" for number in range(count)]
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    pictures = [file.getvalue() + number.to_bytes(4, "big") for number in range(count)]  # what follows is passed over
    entries = [{"image": f"{number:06}.png", "caption": text} for number, text in enumerate(texts)]
    if form == "tar":
        with tarfile.open(folder / name, "w") as tar:
            for number, (data, text) in enumerate(zip(pictures, texts, strict=True)):
                for suffix, content in (("png", data), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{number:06}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return folder / name
    if form == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"image": pictures, "caption": texts}), folder / name, row_group_size=500)
        return folder / name
    for entry, data in zip(entries, pictures, strict=True):
        (folder / entry["image"]).write_bytes(data)
        if form == "folder":
            (folder / entry["image"].replace("png", "txt")).write_text(entry["caption"])
    if form == "folder":
        return folder
    with open(folder / name, "w") as lines:
        if form == "csv":
            rows = csv.DictWriter(lines, ["image", "caption"])
            rows.writeheader()
            rows.writerows(entries)
        elif form == "json":
            json.dump(entries, lines)
        else:
            lines.writelines(json.dumps(entry) + "\n" for entry in entries)
    return folder / name


def measure(source, output):
    """Bytes of memory that an input takes when it is open, and the most while it is worked on."""
    gc.collect()
    gc.freeze()  # so that what is older is not looked through
    tracemalloc.start()
    dataset = open_dataset(source, "caption")
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    result = capfilt(dataset, Stub(), output, shard_size=100)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    gc.unfreeze()
    assert result.counts["web"] == {"kept": len(dataset)}
    return np.array([held, most])


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet", "folder", "tar"])
def test_an_input_of_any_length_runs_in_the_same_memory(tmp_path, form):
    found = []
    for count in (10, *SIZES):  # the first to warm up
        (tmp_path / str(count)).mkdir()
        source = write(tmp_path / str(count), form, count)
        twice = [measure(source, tmp_path / f"out-{count}-{time}") for time in range(2)]
        found.append(np.minimum(*twice))  # now and then Python doubles a table of its own meanwhile
    grown = (found[2] - found[1]) / (SIZES[1] - SIZES[0])
    assert (grown < MOST).all(), f"{grown.round()} bytes a picture when it is open, and at most while worked on"
