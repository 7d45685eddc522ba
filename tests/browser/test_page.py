"""The page of docs/browser in Chromium: the tokens of blip_pt, what is shown, without a network, and wrong inputs."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip_core import Answerer, BlipImageProcessor, BlipProcessor, BlipTokenizer, Captioner, Matcher
from conversion import convert
from tests.helpers.drawn_pictures import PHOTOS, photo, with_alpha
from tests.helpers.pytorch_models import make

pytestmark = [pytest.mark.slow, pytest.mark.needs("pt")]
EMOJI = sorted((Path(__file__).parents[1] / "data" / "emoji").glob("*.png"))
FOX = next(path for path in EMOJI if path.stem == "1f98a")
QUESTIONS = ["what is it?", "what color is it mostly?"]
SEARCHES: list[dict[str, Any]] = [{"prompt": None}, {"prompt": "red", "num_beams": 3, "max_new_tokens": 6}]
TEXTS = ["fox", "red apple", "a guitar, perhaps"]

READ_ALL = """
const { Blip } = await import(location.origin + "/blip.js");
const { folderAt } = await import(location.origin + "/folders.js");
globalThis.models ??= [await Blip.open(folderAt("model")), await Blip.open(folderAt("answers"))];
const found = [];
for (const content of pictures) {
  const file = new Blob([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))]);
  for (const model of models) await model.look(file, "it");
  const [model, answers] = models;
  const tokens = async (text) => (await text).tokens;
  const row = { matches: await model.match(texts), captions: [], answers: [] };
  for (const { prompt, ...given } of searches) row.captions.push(await tokens(model.caption(prompt, given)));
  for (const question of questions) row.answers.push(await tokens(answers.answer(question, {})));
  found.push(row);
}
return found;
"""

READ_PIXELS = """
const { decode, strips } = await import(location.origin + "/pictures.js");
const bitmap = await decode(new Blob([Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0))]), "it");
let text = "";
for await (const strip of strips(bitmap)) for (const value of strip) text += String.fromCharCode(value);
return { size: [bitmap.width, bitmap.height], pixels: btoa(text) };
"""


def encoded(picture: Image.Image | Path) -> str:
    """The bytes of a file, or of a picture as PNG, in base64."""
    if isinstance(picture, Path):
        return base64.b64encode(picture.read_bytes()).decode()
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def rows_of(captioner: Any, found: Any) -> list[list[int]]:
    """Token rows without padding."""
    end = captioner.model.config.text_config.sep_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in found.tolist()]


def test_all_pictures_have_the_tokens_of_pytorch(page):
    captioner, answerer, matcher = (kind.from_pretrained(engine="pt") for kind in (Captioner, Answerer, Matcher))
    found = []
    for begin in range(0, len(EMOJI), 12):  # a command to the browser must not take long
        pictures = [encoded(path) for path in EMOJI[begin : begin + 12]]
        found += page.run(READ_ALL, pictures=pictures, searches=SEARCHES, questions=QUESTIONS, texts=TEXTS)
    pixels = captioner.processor(images=EMOJI, return_tensors="pt").pixel_values
    for index, search in enumerate(SEARCHES):
        options = captioner.options(**search)
        options.pop("whole", None)
        expected = captioner.model.generate(pixel_values=pixels, **options)
        assert [row["captions"][index] for row in found] == rows_of(captioner, expected), search
    for index, question in enumerate(QUESTIONS):
        tokens = answerer.processor(text=[question] * len(EMOJI), return_tensors="pt")
        expected = answerer.model.generate(pixel_values=pixels, **tokens)
        assert [row["answers"][index] for row in found] == rows_of(answerer, expected), question
    for row, match in zip(found, matcher(EMOJI, TEXTS), strict=True):
        np.testing.assert_allclose([one["itm"] for one in row["matches"]], match.itm, atol=1e-4)
        np.testing.assert_allclose([one["itc"] for one in row["matches"]], match.itc, atol=1e-4)


READ_ODD = """
const { Blip } = await import(location.origin + "/blip.js");
const { folderAt } = await import(location.origin + "/folders.js");
const file = new Blob([Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0))]);
const models = [];
for (const name of folders) {
  models.push(await Blip.open(folderAt(name)));
  await models.at(-1).look(file, "it");
}
const [captioner, answerer, matcher] = models;
const tokens = [];
for (const search of searches) tokens.push((await captioner.caption("w7 w8", search)).tokens);
for (const search of searches) tokens.push((await answerer.answer(question, search)).tokens);
return { tokens, matches: await matcher.match(texts), can: [captioner.can, answerer.can, matcher.can] };
"""


def odd_folder(site: Path, head: str) -> Path:
    """A tiny model with random weights, whose sizes all differ, with a vocabulary of 90 words; and its export."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", "w4", "[SEP]", *(f"w{i}" for i in range(6, 88))]
    source = site / f"{head}-source"
    make(head).save_pretrained(source)
    (source / "vocab.txt").write_text("\n".join(words))
    BlipProcessor(BlipImageProcessor(size=32), BlipTokenizer.from_pretrained(source)).save_pretrained(source)
    convert(source, site / head, to="onnx")
    return source


def test_odd_models_have_the_tokens_of_pytorch(page, site):
    heads = ["BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"]
    sources = [odd_folder(site, head) for head in heads]
    searches = [{}, {"num_beams": 4, "max_new_tokens": 12, "length_penalty": -1}, {"no_repeat_ngram_size": 2}]
    question, texts, image = "w9 w40 nothing w11", ["w20", "w30 w31 w32"], photo("astronaut.jpg")
    found = page.run(
        READ_ODD,
        picture=encoded(image.convert("RGB")),
        folders=heads,
        searches=searches,
        question=question,
        texts=texts,
    )
    captioner, answerer, matcher = (
        kind.from_pretrained(source, engine="pt")
        for kind, source in zip((Captioner, Answerer, Matcher), sources, strict=True)
    )
    expected = []
    for search in searches:
        rows = captioner.model.generate(
            captioner.processor(images=image, return_tensors="pt").pixel_values, prompt_ids=[7, 8], **search
        )
        expected += rows_of(captioner, rows)
    asked = answerer.processor(images=image, text=question, return_tensors="pt")
    for search in searches:
        expected += rows_of(answerer, answerer.model.generate(**asked, **search))
    assert found["tokens"] == expected
    match = matcher(image, texts)
    np.testing.assert_allclose([one["itm"] for one in found["matches"]], match.itm, atol=1e-4)
    np.testing.assert_allclose([one["itc"] for one in found["matches"]], match.itc, atol=1e-4)
    can = [{what for what, able in row.items() if able} for row in found["can"]]
    assert can == [{"caption"}, {"answer"}, {"match", "itc"}]


def wide() -> Image.Image:
    """A picture that no texture holds in one piece."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 20_000, 4), dtype=np.uint8))


@pytest.mark.parametrize(
    "picture", [photo, lambda: photo("camera_grey.png"), lambda: with_alpha(photo()), wide, lambda: Image.open(FOX)]
)
def test_pixels_are_those_of_the_file(page, picture):
    image = picture()
    found = page.run(READ_PIXELS, picture=encoded(image))
    assert found["size"] == list(image.size)
    pixels = np.frombuffer(base64.b64decode(found["pixels"]), np.uint8)
    np.testing.assert_array_equal(pixels.reshape(*image.size[::-1], 4), np.asarray(image.convert("RGBA")))


def test_photos_are_turned_as_their_files_say(page):
    found = page.run(READ_PIXELS, picture=encoded(PHOTOS / "coffee_turned.jpg"))
    width, height = found["size"]
    pixels = np.frombuffer(base64.b64decode(found["pixels"]), np.uint8).reshape(height, width, 4)[..., :3]
    processor = BlipImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    expected = processor(PHOTOS / "coffee_turned.jpg").pixel_values[0].transpose(1, 2, 0)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 2  # decoders of JPEG may round otherwise


def test_a_chosen_picture_is_captioned_answered_and_matched(page):
    page.open()
    page.choose("file", FOX)
    page.wait_for("#caption-text", "fox")
    page.wait_for("#answer-text", "orange")
    page.wait_for("#matches tr.best td", "fox")
    assert page.find("#preview").get_attribute("alt") == "fox"
    assert "1f98a.png, read in" in page.find("#status").text
    page.find("#question").clear()
    page.find("#question").send_keys("what is it?\n")
    page.wait_for("#answer-text", "fox")
    page.choose("file", FOX.with_name("1f353.png"))
    page.wait_for("#caption-text", "strawberry")
    page.wait_for("#answer-text", "strawberry")
    page.wait_for("#matches tr.best td", "strawberry")


TAKE = """
const data = new DataTransfer();
const content = Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0));
data.items.add(new File([content], "it.png", { type: "image/png" }));
const about = { clipboardData: data, dataTransfer: data, bubbles: true };
document.body.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, about) : new DragEvent(kind, about));
"""


def test_pictures_are_dropped_and_pasted_and_what_is_none_is_told(page):
    page.open()
    page.run(TAKE, kind="drop", picture=encoded(FOX))
    page.wait_for("#caption-text", "fox")
    page.run(TAKE, kind="paste", picture=encoded(FOX.with_name("1f353.png")))
    page.wait_for("#caption-text", "strawberry")
    page.run('document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: new DataTransfer(), bubbles: true }))')
    page.wait_until(lambda: "That is no picture file" in page.find("#error").text)


def test_settings_change_the_text(page):
    page.open()
    page.choose("file", FOX)
    page.wait_for("#caption-text", "fox")
    page.find("summary").click()
    page.find("#prompt").send_keys("red\n")
    expected = Captioner.from_pretrained(engine="pt")(FOX, prompt="red", num_beams=3).text
    page.find("#beams").send_keys("3\n")
    page.wait_for("#caption-text", expected)


def test_a_folder_of_ones_own_is_opened_and_shows_what_it_has(page, site):
    page.open()
    page.find("summary").click()
    page.choose("folder", site / "answers")
    page.wait_until(lambda: page.find("#model").text.startswith("answers (BlipForQuestionAnswering"))
    assert not page.find("#caption").is_displayed()
    assert not page.find("#match").is_displayed()
    page.choose("file", FOX)
    page.wait_for("#answer-text", "orange")


def test_a_phone_shows_all_of_it(page):
    page.open(width=360)
    page.choose("file", FOX)
    page.wait_for("#caption-text", "fox")
    page.wait_for("#matches tr.best td", "fox")
    assert page.run("return document.documentElement.scrollWidth") == 360
    assert page.run("return document.documentElement.clientWidth") == 360


def test_it_works_without_a_network_once_it_was_loaded(page):
    page.open()
    page.stop_server()
    page.open()
    page.choose("file", FOX)
    page.wait_for("#caption-text", "fox")
    page.wait_for("#answer-text", "orange")


def test_broken_pictures_are_told_in_one_sentence(page, tmp_path):
    page.open()
    for content, message in (
        (b"no picture", "broken.png is no picture that this browser can read, or it is damaged"),
        (FOX.read_bytes()[:30], "broken.png is no picture"),
        (bytes(51 * 2**20), "broken.png has 51 MB; take a picture of at most 50 MB."),
    ):
        (tmp_path / "broken.png").write_bytes(content)
        page.choose("file", tmp_path / "broken.png")
        page.wait_until(lambda message=message: message in page.find("#error").text)
        assert page.find("#caption-text").text == ""
        page.choose("file", FOX)  # and the next one works
        page.wait_for("#caption-text", "fox")
        assert page.find("#error").text == ""


def change_json(file: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "other is no exported model: it has no export.json"),
        (change_json("export.json", version=2), "of version 2, and this page reads onnx of version 1; make it again"),
        (lambda folder: (folder / "step.onnx").unlink(), "other lacks step.onnx; make it again"),
        (lambda folder: (folder / "model.safetensors").unlink(), "other lacks model.safetensors; make it again"),
        (lambda folder: (folder / "step.onnx").write_bytes(b"x" * 99), "other/step.onnx cannot be run"),
        (lambda folder: (folder / "config.json").write_text("{"), "other/config.json is not JSON"),
        (change_json("tokenizer.json", model={"type": "BPE"}), "The tokenizer's model is BPE"),
        (change_json("export.json", parts={"image_features": "../x", "itm_scores": "y"}), "../x, which lies outside"),
        (change_json("export.json", parts={"text_features": "x"}), "with which this page can do nothing"),
    ],
)  # fmt: skip
def test_wrong_folders_are_told_in_one_sentence(page, site, change, message):
    other = site / "other"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(site / "model", other)
    change(other)
    page.open("?model=other", ready=False)
    page.wait_until(lambda: message in page.find("#error").text)
    page.may_complain = True  # Chromium and ONNX Runtime say so themselves in the console


def test_other_hosts_are_never_asked(page):
    page.open("?model=https://example.com/model", ready=False)
    page.wait_until(lambda: "example.com is another server, which this page never asks" in page.find("#error").text)
