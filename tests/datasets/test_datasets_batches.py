"""Batches: what models are given, and that workers, ranks, resuming and broken pictures change nothing else."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from blip_core.datasets import Augmentation, Batches, Dataset, Example, Picture, open_dataset
from blip_core.datasets.batches import TRIES
from blip_core.tasks import TASKS
from tests.helpers.data_files import PROCESSOR, make_batches, picture, save_pictures, small_dataset, write_entries

STRONG = Augmentation(
    crop_scale=(0.3, 1), rotate=30, scale=(0.5, 1.2), translate=0.1, elastic=0.05, random_background=0.5, hue=0.1,
    saturation=0.2, brightness=0.2, erase=0.5,
)  # fmt: skip


def same(first, second):
    assert [batch.examples for batch in first] == [batch.examples for batch in second]
    for one, other in zip(first, second, strict=True):
        assert one.inputs.keys() == other.inputs.keys()
        for name, array in one.inputs.items():
            np.testing.assert_array_equal(array, other.inputs[name])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_inputs_of_every_task(tmp_path, task, training):
    batches = make_batches(small_dataset(tmp_path, task), 4, training=training, prompt="a picture of")
    batch = next(batches.epoch(0))
    inputs, types = batch.inputs, {name: array.dtype.name for name, array in batch.inputs.items()}
    pictures = (4, 2, 3, 16, 20) if task == "nlvr" else (4, 3, 16, 20)
    assert inputs["pixel_values"].shape == pictures
    integers = {"input_ids", "attention_mask"} | {
        "caption": {"labels"},
        "vqa": {"labels", "decoder_input_ids", "decoder_attention_mask", "answer_counts"},
        "nlvr": {"labels"},
        "match": {"labels"},
        "classification": {"labels"},
        "retrieval": {"image_ids"},
    }.get(task, set())
    floats = {"pixel_values"} | ({"answer_weights"} if task == "vqa" else set())
    assert types == {**dict.fromkeys(integers, "int64"), **dict.fromkeys(floats, "float32")}
    tokens = PROCESSOR.batch_decode(inputs["input_ids"])
    if task == "caption":
        assert tokens == ["[DEC] a picture of a dog [SEP]"] * 4
        assert inputs["labels"][0].tolist()[:4] == [-100] * 4
        assert inputs["labels"][0].tolist()[4:] == inputs["input_ids"][0].tolist()[4:]
    elif task == "vqa":
        assert tokens == ["[CLS] what is it? [SEP]"] * 4
        assert PROCESSOR.batch_decode(inputs["decoder_input_ids"]) == ["[DEC] dog [SEP]", "[DEC] cat [SEP]"] * 4
        assert inputs["labels"][:, 0].tolist() == [-100] * 8
        assert (inputs["labels"][:, 1:] == inputs["decoder_input_ids"][:, 1:]).all()
        assert inputs["answer_counts"].tolist() == [2] * 4
        assert inputs["answer_weights"].tolist() == [0.75, 0.25] * 4
    elif task == "nlvr":
        assert inputs["labels"].tolist() == [1] * 4
    else:
        assert tokens == ["[CLS] a dog [SEP]"] * 4
    if training:
        return
    plain = PROCESSOR(images=[[p.load() for p in e.images] for e in batch.examples], return_tensors="np")
    np.testing.assert_array_equal(inputs["pixel_values"].reshape(-1, 3, 16, 20), plain["pixel_values"])


def test_evaluation_is_in_order_and_whole(tmp_path):
    data = small_dataset(tmp_path)
    batches = make_batches(data, training=False, augment=STRONG, seed=3)
    assert batches.steps_per_epoch == 3
    assert [e for batch in batches.epoch(7) for e in batch.examples] == list(data)
    same(list(batches.epoch(0)), list(make_batches(data, training=False).epoch(9)))


def test_epochs_differ_by_seed_and_number_and_hold_each_example_once(tmp_path):
    data = small_dataset(tmp_path)
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batches = make_batches(data, 3, seed=seed, drop_last=False)
        order = [example.key for batch in batches.epoch(epoch) for example in batch.examples]
        assert sorted(order) == sorted(example.key for example in data)
        orders.append(order)
    assert len(set(map(tuple, orders))) == 3
    assert make_batches(data, 3).steps_per_epoch == 3
    assert [len(batch.examples) for batch in make_batches(data, 3).epoch(0)] == [3, 3, 3]


@pytest.mark.parametrize("task", ["caption", "nlvr"])
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_cache_change_nothing(tmp_path, task, workers):
    data = small_dataset(tmp_path, task, 23)
    options = {"augment": STRONG, "seed": 5, "background": "white"}
    expected = make_batches(data, 10, **options)
    batches = make_batches(data, 10, workers=workers, cache=1, **options)
    for epoch in range(2):
        same(list(expected.epoch(epoch)), list(batches.epoch(epoch)))


def test_a_picture_is_changed_alike_in_any_batch(tmp_path):
    data = small_dataset(tmp_path)

    def pixels(batch_size):
        batches = make_batches(data, batch_size, augment=STRONG, drop_last=False)
        return {
            example.key: row
            for batch in batches.epoch(2)
            for example, row in zip(batch.examples, batch.inputs["pixel_values"], strict=True)
        }

    one, other = pixels(3), pixels(10)
    assert one.keys() == other.keys()
    assert all((one[key] == other[key]).all() for key in one)


def test_going_on_inside_an_epoch_reads_nothing_of_what_is_done(tmp_path):
    data = small_dataset(tmp_path, count=12)
    batches = make_batches(data, 2, augment=STRONG)
    whole = list(batches.epoch(3))
    batches = make_batches(data, 2, augment=STRONG, workers=2)
    read = []
    load = batches.load
    batches.load = lambda picture: (read.append(picture), load(picture))[1]
    same(whole[4:], list(batches.epoch(3, start=4)))
    assert set(read) == {p for batch in whole[4:] for example in batch.examples for p in example.images}
    assert list(batches.epoch(3, start=6)) == []


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_the_batch_of_one(tmp_path, drop_last):
    data = small_dataset(tmp_path, count=11)
    whole = list(make_batches(data, 6, augment=STRONG, drop_last=drop_last).epoch(1))
    ranks = [
        list(make_batches(data, 2, augment=STRONG, drop_last=drop_last, rank=r, world_size=3).epoch(1))
        for r in range(3)
    ]
    assert [len(steps) for steps in ranks] == [len(whole)] * 3
    for step, batch in enumerate(whole):
        examples = [example for steps in ranks for example in steps[step].examples]
        pixels = np.concatenate([steps[step].inputs["pixel_values"] for steps in ranks])
        assert len(examples) == 6
        assert tuple(examples[: len(batch.examples)]) == batch.examples
        np.testing.assert_array_equal(pixels[: len(batch.examples)], batch.inputs["pixel_values"])
    if not drop_last:  # the last step is filled up from the beginning
        assert ranks[2][1].examples[1:] == whole[0].examples[:1]


def test_ranks_of_evaluation_take_each_example_once(tmp_path):
    data = small_dataset(tmp_path, count=9)
    ranks = [list(make_batches(data, 2, training=False, rank=r, world_size=3).epoch(0)) for r in range(3)]
    assert [len(steps) for steps in ranks] == [2, 2, 1]
    keys = [example.key for steps in ranks for batch in steps for example in batch.examples]
    assert sorted(keys) == sorted(example.key for example in data)


@pytest.mark.parametrize("workers", [0, 3])
def test_another_takes_the_place_of_a_broken_picture(tmp_path, workers):
    expected = list(make_batches(small_dataset(tmp_path), 5, augment=STRONG).epoch(1))
    broken = expected[0].examples[2]
    with open(broken.images[0].path, "r+b") as file:
        file.truncate(60)
    data = small_dataset_again(tmp_path)
    found = list(make_batches(data, 5, augment=STRONG, workers=workers).epoch(1))
    same(expected[1:], found[1:])
    [place] = [i for i in range(5) if expected[0].examples[i] != found[0].examples[i]]
    assert place == 2
    kept = [0, 1, 3, 4]
    for name in ("pixel_values", "labels"):
        np.testing.assert_array_equal(expected[0].inputs[name][kept], found[0].inputs[name][kept])
    assert len(data.problems) == 1
    assert data.problems[0][0] == broken.key
    assert "is not a picture that can be read whole" in data.problems[0][1]
    same(found, list(make_batches(data, 5, augment=STRONG).epoch(1)))
    assert len(data.problems) == 1


def small_dataset_again(folder):
    return open_dataset(folder / "data.json", "caption")


def test_evaluation_leaves_broken_pictures_out(tmp_path):
    data = small_dataset(tmp_path, count=6)
    for number in (0, 2, 3):
        (tmp_path / f"{number}.png").write_bytes(b"")
    found = list(make_batches(data, 2, training=False, workers=2).epoch(0))
    assert [[e.key for e in batch.examples] for batch in found] == [["data.json:1"], ["data.json:4", "data.json:5"]]
    assert [len(array) for array in found[0].inputs.values()] == [1] * 4
    expected = PROCESSOR(images=[picture(1)], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(found[0].inputs["pixel_values"], expected)
    assert [where for where, _ in sorted(data.problems)] == ["data.json:0", "data.json:2", "data.json:3"]


def test_one_good_picture_is_found_among_many_broken(tmp_path):
    data = small_dataset(tmp_path)
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(b"")
    for epoch in range(3):
        for batch in make_batches(data, 5).epoch(epoch):
            assert {example.key for example in batch.examples} == {"data.json:9"}


def test_training_stops_where_no_picture_can_be_read(tmp_path):
    data = small_dataset(tmp_path)
    for number in range(10):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(OSError, match=f"{TRIES} pictures in a row cannot be read; the last: "):
        next(make_batches(data, workers=2).epoch(0))


def test_what_lacks_an_answer_is_not_trained_on(tmp_path):
    names = save_pictures(tmp_path, 3)
    entries = [{"image": name, "question": "what?", "answer": "it"} for name in names]
    del entries[1]["answer"]
    data = open_dataset(write_entries(tmp_path / "a.json", entries), "vqa")
    batches = make_batches(data, 2)
    assert data.problems == [("a.json:1", "has no answer to learn from")]
    assert {example.key for example in next(batches.epoch(0)).examples} == {"a.json:0", "a.json:2"}
    inputs = next(make_batches(data, 3, training=False).epoch(0)).inputs
    assert sorted(inputs) == ["attention_mask", "input_ids", "pixel_values"]  # none has answers where one has not
    said = r"2 examples .* less than a batch of 3; 1 entries of the data .* a.json:1: has no answer .*\. Mend"
    with pytest.raises(ValueError, match=said):
        make_batches(data, 3)


def test_pictures_without_captions_can_be_captioned(tmp_path):
    data = open_dataset(
        write_entries(tmp_path / "a.json", [{"image": n} for n in save_pictures(tmp_path, 2)]), "caption"
    )
    assert list(next(make_batches(data, 2, training=False).epoch(0)).inputs) == ["pixel_values"]
    with pytest.raises(ValueError, match="0 examples to learn from"):
        make_batches(data, 2)


def test_one_of_many_captions_is_drawn_each_epoch(tmp_path):
    data = small_dataset(tmp_path, count=40, caption=["one", "two", "three"])
    batches = make_batches(data, 40, training=True)

    def drawn(epoch):
        batch = next(batches.epoch(epoch))
        words = PROCESSOR.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
        return dict(zip([example.key for example in batch.examples], words, strict=True))

    assert drawn(0) == drawn(0) != drawn(1)
    assert set(drawn(0).values()) == {"one", "two", "three"}
    evaluated = next(make_batches(data, 40, training=False).epoch(0)).inputs["input_ids"]
    assert set(PROCESSOR.batch_decode(evaluated, skip_special_tokens=True)) == {"one"}


def test_pictures_of_nlvr_are_swapped_together_with_their_sides(tmp_path):
    data = small_dataset(tmp_path, "nlvr", 30, sentence="The LEFT one is right of it. leftover")
    batch = next(make_batches(data, 30).epoch(0))
    sentences = PROCESSOR.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
    plain, swapped = "the left one is right of it leftover", "the right one is left of it leftover"
    assert 5 < sentences.count(swapped) < 25
    for example, sentence, pixels in zip(batch.examples, sentences, batch.inputs["pixel_values"], strict=True):
        assert sentence in (plain, swapped)
        images = [image.load() for image in example.images][:: -1 if sentence == swapped else 1]
        np.testing.assert_array_equal(pixels, PROCESSOR(images=images, return_tensors="np")["pixel_values"])


def test_examples_of_one_picture_have_one_number(tmp_path):
    names = save_pictures(tmp_path, 2)
    entries = [{"image": names[i % 2], "caption": "a", **extra} for i, extra in enumerate([{"image_id": "x"}, {}] * 2)]
    entries.append({"image": names[0], "caption": "a", "image_id": "y"})
    data = open_dataset(write_entries(tmp_path / "a.json", entries), "retrieval")
    assert next(make_batches(data, 5, training=False).epoch(0)).inputs["image_ids"].tolist() == [0, 1, 0, 1, 2]


def test_texts_are_cut_and_padded(tmp_path):
    data = small_dataset(tmp_path, "pretrain", caption="dog " * 50)
    assert next(make_batches(data).epoch(0)).inputs["input_ids"].shape == (4, 30)
    assert next(make_batches(data, max_text_length=7).epoch(0)).inputs["input_ids"].shape == (4, 7)
    data = small_dataset(tmp_path, "vqa", answer="dog " * 50)
    inputs = next(make_batches(data, padding="max_length", max_text_length=9).epoch(0)).inputs
    assert inputs["input_ids"].shape == inputs["labels"].shape == (4, 9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cache", [0, 1])
def test_transparent_pictures_lie_on_the_ground(tmp_path, training, cache, monkeypatch):
    values = np.zeros((18, 24, 4), np.uint8)
    values[..., 1], values[:, 12:, 3] = 200, 255
    data = small_dataset(tmp_path, count=2)
    for number in range(2):
        Image.fromarray(values).save(tmp_path / f"{number}.png")

    def ends(**options):
        batches = make_batches(data, 2, training=training, cache=cache, **options)
        pixels = [batch.inputs["pixel_values"] for epoch in range(2) for batch in batches.epoch(epoch)][-1]
        mean, std = (np.array(v) for v in (PROCESSOR.image_processor.image_mean, PROCESSOR.image_processor.image_std))
        return [np.rint((pixels[0, :, 5, column] * std + mean) * 255).tolist() for column in (0, -1)]

    green = [0, 200, 0]
    assert ends() == [green, green]  # as the processor does
    assert ends(background="white") == [[255, 255, 255], green]
    assert ends(background=(9, 8, 7)) == [[9, 8, 7], green]
    with monkeypatch.context() as patch:
        patch.setattr(PROCESSOR.image_processor, "background", "white")
        assert ends() == [[255, 255, 255], green]
        assert ends(background=(9, 8, 7)) == [[9, 8, 7], green]
    augment = Augmentation(crop_scale=None, flip=0, rand_augment=None, random_background=1)
    ground, kept = ends(background="white", augment=augment)
    assert kept == green
    assert (ground != [255, 255, 255]) == training


def test_the_cache_keeps_to_its_size(tmp_path):
    data = small_dataset(tmp_path, count=10)
    batches = make_batches(data, 10, cache=1)
    batches.load.room = 4 * 24 * 18 * 3  # bytes of three pictures
    for _ in range(2):
        list(batches.epoch(0))
    assert len(batches.load.kept) == 3
    for kept in batches.load.kept:
        (tmp_path / kept.path).unlink()
    same(list(batches.epoch(1)), list(batches.epoch(1)))
    assert not data.problems


class Slow(Picture):
    """A picture that counts how many were read."""

    __slots__ = ()
    count = 0
    lock = threading.Lock()

    def load(self, least=None):
        with Slow.lock:
            Slow.count += 1
        return picture()


def test_reading_ahead_is_bounded_and_ends_with_the_consumer(tmp_path):
    examples = [Example(str(number), (Slow(str(number)),), ("a",)) for number in range(400)]
    batches = make_batches(Dataset("caption", examples), 10, workers=2)
    Slow.count = 0
    before = threading.active_count()
    epoch = batches.epoch(0)
    next(epoch)
    deadline = time.monotonic() + 10
    while Slow.count < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Slow.count == 30  # the one that is given and two ahead
    epoch.close()
    assert threading.active_count() == before


def test_other_errors_reach_the_consumer(tmp_path, monkeypatch):
    batches = make_batches(small_dataset(tmp_path), workers=2)
    monkeypatch.setattr(type(PROCESSOR.image_processor), "preprocess", lambda *a, **k: 1 / 0)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        next(batches.epoch(0))
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"workers": -1}, "workers must be a whole number of at least 0"),
        ({"seed": None}, "seed must be a whole number"),
        ({"rank": 2, "world_size": 2}, "rank must be less than world_size, 2, got 2"),
        ({"background": "whitish"}, "background must be a colour"),
        ({"background": (0, 0, 256)}, "background must be"),
        ({"batch_size": 11}, "10 examples to learn from are less than a batch of 11"),
    ],
)
def test_arguments_that_cannot_work(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_batches(small_dataset(tmp_path), **{"batch_size": 2, **options})


def test_a_data_set_is_for_its_task(tmp_path):
    with pytest.raises(ValueError, match="was opened for caption, and cannot be used for 'vqa'"):
        Batches(small_dataset(tmp_path), PROCESSOR, "vqa", 2, training=True)
    Batches(small_dataset(tmp_path), PROCESSOR, "pretrain", 2, training=True)
