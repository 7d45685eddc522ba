"""Parquet files as data sets: every form of pictures and texts, places found at any time, and files made to mislead."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blip_core.datasets import open_dataset, parquet
from blip_core.datasets.examples import ChangedError
from tests.helpers.data_files import FIELDS, make_batches, picture, picture_bytes, save_pictures, small_dataset

PICTURES = [picture_bytes(number) for number in range(10)]
STRUCT = [{"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(PICTURES)]
IMAGES = {
    "bytes": pa.array(PICTURES),
    "large bytes": pa.array(PICTURES, pa.large_binary()),
    "views of bytes": pa.array(PICTURES, pa.binary_view()),
    "Hugging Face": pa.array(STRUCT),
}
CAPTIONS = {
    "text": pa.array(["A Dog!"] * 10),
    "large text": pa.array(["A Dog!"] * 10, pa.large_string()),
    "dictionary": pa.array(["A Dog!"] * 10).dictionary_encode(),
    "bytes": pa.array([b"A Dog!"] * 10),
    "list": pa.array([["A Dog!"]] * 10),
    "large list": pa.array([["A Dog!"]] * 10, pa.large_list(pa.large_string())),
}


def write(path, image="bytes", caption="text", rows=4, **columns):
    """Ten pictures with captions, four in a row group; columns may be given in their place or beside them."""
    image = IMAGES[image] if isinstance(image, str) else image
    caption = CAPTIONS[caption] if isinstance(caption, str) else caption
    columns = {"image": image, "caption": caption, **columns}
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path, row_group_size=rows)
    return path


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("caption", CAPTIONS)
def test_every_form(tmp_path, image, caption):
    data = open_dataset(write(tmp_path / "a.parquet", image, caption, image_id=list(range(10))), "retrieval")
    assert not data.problems
    assert [example.key for example in data] == [f"a.parquet:{row}" for row in range(10)]
    assert [example.image_id for example in data] == list(range(10))
    assert {example.texts for example in data} == {("A Dog!",)}
    assert [example.images[0].read() for example in data] == PICTURES


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_pictures_are_found_in_any_order_by_any_thread(tmp_path, compression, monkeypatch):
    monkeypatch.setattr(parquet, "PASSED", 3)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": IMAGES["bytes"], "caption": CAPTIONS["list"]}), path, compression=compression)
    data = open_dataset(path, "caption")
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 20))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: data[row].images[0].read(), order))
    assert found == [PICTURES[row] for row in order]


def test_no_more_than_some_pictures_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "PASSED_BYTES", 3 * len(PICTURES[0]))
    data = open_dataset(write(tmp_path / "a.parquet", rows=10), "caption")
    for example in data:
        example.images[0].read()
    picture = data[9].images[0]
    assert 1 < len(parquet._open(picture.path, picture.column, picture.version, None).passed) <= 4


@pytest.mark.parametrize("form", ["text", "Hugging Face"])
def test_paths(tmp_path, form):
    names = save_pictures(tmp_path / "pictures", 10)
    paths = [*names[:8], "gone.png", "../../secret.png"]
    struct = pa.array(
        [{"bytes": None, "path": path} for path in paths], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    image = pa.array(paths) if form == "text" else struct
    data = open_dataset(write(tmp_path / "a.parquet", image), "caption", tmp_path / "pictures")
    assert [example.images[0].path for example in data] == [str(tmp_path / "pictures" / name) for name in names[:8]]
    assert [where for where, _ in data.problems] == ["a.parquet:8", "a.parquet:9"]
    assert "does not exist" in data.problems[0][1]
    assert "lies outside" in data.problems[1][1]


def test_a_picture_without_bytes_among_others(tmp_path):
    data = open_dataset(write(tmp_path / "a.parquet", pa.array([None, *PICTURES[1:]])), "caption")
    with pytest.raises(OSError, match=r"a\.parquet:0 cannot be read: its bytes are missing"):
        data[0].images[0].load()
    assert data[1].images[0].load().tobytes() == picture(1).tobytes()


@pytest.mark.parametrize("task", FIELDS)
def test_every_task_is_as_in_json(tmp_path, task):
    expected = small_dataset(tmp_path, task)
    names = [[path.path.rsplit("/", 1)[1] for path in example.images] for example in expected]
    columns = {name: [value] * 10 for name, value in FIELDS[task].items()}
    images = {"image": None, "images": names} if task == "nlvr" else {"image": [name for [name] in names]}
    path = write(tmp_path / "a.parquet", **{"caption": None, **columns, **images})
    found = open_dataset(path, task)
    assert not found.problems
    for one, other in zip(found, expected, strict=True):
        assert (one.images, one.texts, one.answers, one.weights) == (
            other.images,
            other.texts,
            other.answers,
            other.weights,
        )
        assert (one.question_id, one.label) == (other.question_id, other.label)


def test_columns_of_img2dataset(tmp_path):
    path = write(tmp_path / "a.parquet", None, None, jpg=IMAGES["bytes"], text=CAPTIONS["text"], url=["x"] * 10)
    data = open_dataset(path, "pretrain")
    assert data[3].images[0].read() == PICTURES[3]
    assert data[3].texts == ("A Dog!",)


def test_training_batches_are_those_of_files(tmp_path):
    expected = small_dataset(tmp_path, "caption", caption="a dog")
    found = open_dataset(write(tmp_path / "data.json.parquet", caption=pa.array(["a dog"] * 10)), "caption")
    for one, other in zip(
        make_batches(found, training=False).epoch(0), make_batches(expected, training=False).epoch(0), strict=True
    ):
        assert one.inputs.keys() == other.inputs.keys()
        assert all(np.array_equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
    assert len(list(make_batches(found, workers=2).epoch(0))) == 2


def test_bad_rows_are_listed_and_the_others_used(tmp_path):
    latin = pa.array([b"a dog", "caf\xe9".encode("latin-1"), b"a cat"])
    texts = pa.Array.from_buffers(pa.string(), 3, latin.buffers())
    for caption in (latin, texts):
        data = open_dataset(write(tmp_path / "a.parquet", pa.array(PICTURES[:3]), caption), "caption")
        assert [example.texts for example in data] == [("a dog",), ("a cat",)]
        [(where, reason)] = data.problems
        assert where == "a.parquet:1"
        assert "not UTF-8" in reason
    long = pa.array(["a dog", "x" * 2**20, " "])
    data = open_dataset(write(tmp_path / "a.parquet", pa.array(PICTURES[:3]), long), "caption")
    assert len(data) == 1
    assert [reason[:14] for _, reason in data.problems] == ["has texts of 1", "caption has no"]
    assert len(open_dataset(write(tmp_path / "a.parquet", caption=pa.nulls(10)), "caption")) == 10


def test_a_short_file_of_very_many_texts(tmp_path):
    """Of a few hundred bytes each: a text of a megabyte in each row; a row of two million texts."""
    big = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array(["a dog" * 2**18]))
    pq.write_table(pa.table({"image": ["0.png"] * 1000, "caption": big}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 4000
    with pytest.raises(ValueError, match=r"the first of 1000 problems: a\.parquet:0: has texts of 1310"):
        open_dataset(tmp_path / "a.parquet", "caption")
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2 * 10**6, np.int32)), pa.array(["a dog"]))
    row = pa.ListArray.from_arrays(pa.array([0, 2 * 10**6], pa.int32()), many)
    pq.write_table(pa.table({"image": ["0.png"], "caption": row}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"says that it has 2000000 values in \d+ bytes"):
        open_dataset(tmp_path / "b.parquet", "caption")


def test_files_that_are_none(tmp_path):
    good = write(tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(good[:-50])
    with pytest.raises(ValueError, match="is not a Parquet file that can be read"):
        open_dataset(tmp_path / "b.parquet", "caption")
    write(tmp_path / "c.parquet", None, picture=IMAGES["bytes"])
    with pytest.raises(ValueError, match=r"must have a column named image, got \['caption', 'picture'\]"):
        open_dataset(tmp_path / "c.parquet", "caption")


def test_damage_within(tmp_path):
    path = write(tmp_path / "a.parquet", rows=5)
    place = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    for column, length in ((0, 40), (1, 40)):
        place = pq.read_metadata(path).row_group(1).column(column).dictionary_page_offset
        data = bytearray(path.read_bytes())
        data[place : place + length] = b"\xee" * length
        (tmp_path / f"{column}.parquet").write_bytes(data)
    pictures = open_dataset(tmp_path / "0.parquet", "caption")
    assert [example.images[0].read() for example in pictures[:5]] == PICTURES[:5]
    with pytest.raises(OSError, match=r"0\.parquet:5 cannot be read"):
        pictures[5].images[0].read()
    assert pictures[0].images[0].read() == PICTURES[0]
    texts = open_dataset(tmp_path / "1.parquet", "caption")
    assert len(texts) == 5
    assert "damaged; what lies before is used" in texts.problems[0][1]


def test_a_file_that_changes(tmp_path):
    data = open_dataset(write(tmp_path / "a.parquet", rows=1), "caption")
    assert data[0].images[0].read() == PICTURES[0]
    write(tmp_path / "a.parquet", pa.array(PICTURES[::-1]))
    for row in (1, 9):
        with pytest.raises(ChangedError, match=r"a\.parquet changed while it was read"):
            data[row].images[0].read()
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ChangedError, match=r"a\.parquet vanished while it was read"):
        data[2].images[0].load()


def test_without_pyarrow(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r'pip install "blip-duo\[parquet\]"'):
        open_dataset(tmp_path / "a.parquet", "caption")


@pytest.mark.parametrize("column", ["image", "caption"])
def test_a_cell_that_is_too_large_is_refused_before_it_is_read(tmp_path, column):
    table = {"image": [PICTURES[0]], "caption": [b"a dog"]} | {column: [bytes(300_000_000)]}
    path = tmp_path / "a.parquet"
    columns = {name: pa.array(values, pa.binary()) for name, values in table.items()}
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False, write_statistics=False)
    assert path.stat().st_size < 100_000
    pool = pa.default_memory_pool()
    most = pool.max_memory()
    with pytest.raises(ValueError, match=rf"has 1 values of {column} in 300\d+ bytes, too many to read; leave out"):
        open_dataset(path, "caption")
    assert pool.max_memory() <= max(most, 2**27)
