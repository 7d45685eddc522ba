"""The API: the same results as the classes, in both forms of requests, and one sentence for each mistake."""

import base64
import json
import re
import struct
import zlib

import numpy as np
import pytest

from blip_core.generation import GenerationConfig
from blip_core.inference import Matcher
from blip_core.serving import Models
from blip_core.serving.api_tasks import GENERATION, HIDDEN, TASKS

EXPORTED = ("onnx", "openvino")


def post(client, task, file=None, **fields):
    """Ask with JSON; what comes back, its status first."""
    image = {"image": base64.b64encode(file).decode()} if file else {}
    answer = client.post(f"/v1/{task}", json={**image, **fields})
    return answer.status_code, answer.json()


def form(client, task, file, **fields):
    """Ask with a form."""
    answer = client.post(f"/v1/{task}", files={"image": ("a.png", file)}, data=fields)
    return answer.status_code, answer.json()


def close(found, expected):
    """Compare results of JSON, numbers within float32's accuracy."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            close(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            close(*pair)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=2e-5, rel=2e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("engine", ["pt", "tf", *(pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED)])
def test_results_are_those_of_the_classes(engine, serving, models_of, files):
    client, models = serving(engine), models_of(engine)
    _, found = form(
        client, "caption", files[0], prompt="a", num_beams="3", num_return_sequences="2", max_new_tokens="5"
    )
    expected = models.captioner(files[0], prompt="a", num_beams=3, num_return_sequences=2, max_new_tokens=5).to_dict()
    close(found, {**expected, "image": "a.png"})
    texts = ["a dog", "two cats on a red mat"]
    _, found = post(client, "match", files[2], text=texts)
    close(found, Matcher.__call__(models.matcher, files[2], texts).to_dict())
    _, found = post(client, "answer", files[1], question="how many?", max_new_tokens=4)
    close(found, models.answerer(files[1], "how many?", max_new_tokens=4).to_dict())
    assert models.explains == (engine not in EXPORTED)  # heat maps take gradients


def test_samples_are_those_of_their_seed(serving, models_of, files):
    _, found = post(serving(), "caption", files[1], do_sample=True, seed=3, max_new_tokens=4)
    close(found, models_of().captioner(files[1], do_sample=True, seed=3, max_new_tokens=4).to_dict())


def test_answers_are_those_of_the_class_one_or_several(serving, models_of, files):
    client, answerer = serving(), models_of().answerer
    _, found = post(client, "answer", files[0], question="how many?", max_new_tokens=4)
    close(found, answerer(files[0], "how many?", max_new_tokens=4).to_dict())
    questions = ["how many?", "what is it, then?"]
    with pytest.warns(UserWarning, match="'Yes' is left out"):
        _, found = form(client, "answer", files[0], question=questions, choices=["yes", "no", "Yes"])
    expected = [one.to_dict() for one in answerer.choose(files[0], questions, ["yes", "no"])]
    assert found["image"] == "a.png"
    close(found["answers"], [{name: one[name] for name in one if name != "image"} for one in expected])


def test_features_and_what_is_found_by_them(serving, models_of, files):
    client, models = serving(), models_of()
    _, found = post(client, "embed", files[0], text="a dog")
    assert found["model"] == models.matcher.features_identity
    close(found["features"], models.matcher.image_features(files[0])[0].tolist())
    close(found["texts"][0]["features"], models.matcher.text_features("a dog")[0].tolist())
    by_text = models.searcher.search(models.matcher.text_features("a dog"), 16)
    assert not [error for _, error in models.searcher.rerank(["a dog"], by_text, 16) if error]
    by_picture = models.searcher.search(models.matcher.image_features(files[3]), 16)
    for (hits,), picture, fields in ((by_text, None, {"text": "a dog"}), (by_picture, files[3], {})):
        _, found = post(client, "search", picture, **fields, top=3)
        assert [row["image"] for row in found["results"]] == [hit.name for hit in hits[:3]]
        close([row["score"] for row in found["results"]], [hit.score for hit in hits[:3]])
        assert [row["itm"] is None for row in found["results"]] == [picture is not None] * 3


def test_what_waits_together_is_computed_together_with_equal_results(serving, files):
    client = serving(batch_size=4)
    asked = [("caption", {"max_new_tokens": 5}), ("answer", {"question": "is it?", "max_new_tokens": 4})]
    asked += [("answer", {"question": ["what is it in the picture?"], "max_new_tokens": 4})]
    asked += [("match", {"text": ["a dog", "two cats on a red mat"]}), ("match", {"text": "a dog"}), ("embed", {})]
    alone = [post(client, task, file, **fields) for task, fields in asked for file in files]
    assert {status for status, _ in alone} == {200}
    together = in_parallel(lambda task, file, fields: post(client, task, file, **fields),
                           [(task, file, fields) for task, fields in asked for file in files])  # fmt: skip
    close([found for _, found in together], [found for _, found in alone])
    counts = dict(re.findall(r'blip_batch_size_(count|sum)\{task="match"\} (\S+)', client.get("/metrics").text))
    assert float(counts["sum"]) == 24
    assert float(counts["count"]) < 24  # some were computed together


def in_parallel(call, arguments):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(lambda one: call(*one), arguments))


def test_tokens_are_streamed(serving, models_of, files):
    client = serving()
    expected = models_of().captioner(files[0], max_new_tokens=5)
    with client.stream(
        "POST", "/v1/caption", files={"image": files[0]}, data={"stream": "true", "max_new_tokens": "5"}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [
            (event, json.loads(data)) for event, data in re.findall("event: (.*)\ndata: (.*)\n", answer.read().decode())
        ]
    assert [event for event, _ in events] == ["token"] * (len(events) - 1) + ["result"]
    assert events[-2][1]["text"] == events[-1][1]["caption"] == expected.text
    status, found = post(client, "caption", files[0], stream=True, num_beams=2)
    assert (status, "stream needs num_beams=1" in found["error"]) == (422, True)
    status, found = post(client, "answer", files[0], question=["a", "b"], stream=True)
    assert (status, "one question" in found["error"]) == (422, True)


def bomb(width, height):
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("task", "fields", "status", "said"),
    [
        ("caption", {"num_beems": 3}, 422, "There is no option 'num_beems' of caption; the nearest is num_beams."),
        ("match", {"text": "a", "num_beams": 3}, 422, "There is no option 'num_beams' of match; it takes image, text."),
        ("caption", {"num_beams": 0}, 422, "num_beams must be a whole number from 1 to 16, got 0"),
        ("caption", {"num_beams": 10**9}, 422, "num_beams must be a whole number from 1 to 16"),
        ("caption", {"output_scores": True}, 422, "There is no option 'output_scores' of caption"),
        ("caption", {"top_p": 7}, 422, "top_p must be"),
        ("caption", {"max_new_tokens": 10**9}, 422, "the model has 40 positions"),
        ("caption", {"seed": -1}, 422, "seed must be"),
        ("answer", {}, 422, "question is missing: a question, or a list of questions."),
        ("answer", {"question": 7}, 422, "question must be a text or a list of texts, got int."),
        ("answer", {"question": "why " * 300}, 422, "The text has 302 tokens but the model takes at most 40"),
        ("answer", {"question": "why " * 900}, 422, "a text of 3600 characters, more than 2000; shorten it."),
        ("answer", {"question": "a", "choices": ["yes"], "num_beams": 2}, 422, "num_beams does not go with choices"),
        ("match", {"text": [" "]}, 422, "text has an empty text"),
        ("match", {"text": ["a"] * 300}, 422, "text has 300 texts, more than 256; ask in parts."),
        ("match", {"text": ["x" * 2000] * 140}, 413, "beside its image, more than 262144; ask in parts."),
        ("search", {"text": "a", "top": 10**6}, 422, "top must be a whole number from 1 to 100"),
        ("search", {}, 200, None),
        ("search", {"text": "a"}, 422, "Search takes a text or an image; give one of the two."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_in_one_sentence(task, fields, status, said, serving, files):
    picture = None if said and "top must" in said else files[0]
    found = post(serving(), task, picture, **fields)
    assert found[0] == status
    assert said is None or said in found[1]["error"]


def test_what_is_no_picture_is_refused_in_one_sentence(serving, files, folder):
    client = serving(max_pixels=100)
    assert post(client, "caption", bomb(20000, 10000)) == (
        413,
        {"error": "image has more than 100 million pixels; send a smaller one."},
    )
    assert post(client, "caption", bomb(15000, 10000))[0] == 413  # more than here, fewer than Pillow's own limit
    for content in (b"this is no picture", files[0][:200], b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe"):
        status, found = form(client, "caption", content)
        assert status == 422
        assert found["error"].startswith("image is not a picture that can be read whole")
    assert form(client, "caption", b"") == (422, {"error": "image is empty; send a picture."})
    assert post(client, "caption") == (422, {"error": "image is missing; send a picture."})
    # No path is followed, whatever it looks like, and no address is fetched.
    for text in (str(folder / "0.png"), "~/a.png", "file:///etc/passwd", "data:text/plain,hello"):
        answer = client.post("/v1/caption", json={"image": text})
        assert (answer.status_code, "image must be" in answer.json()["error"]) == (422, True)
    answer = client.post("/v1/caption", json={"image": "http://127.0.0.1/a.png"})
    assert (answer.status_code, "does not fetch" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b"{", "application/json", 400, "not JSON that can be read"),
        (b"[1]", "application/json", 400, "must be a JSON object"),
        (b"[" * 10**5, "application/json", 400, "not JSON that can be read"),
        (b'{"image": 1}', "application/json", 422, "image must be a text"),
        (b'{"top_p": NaN, "image": "AAAA"}', "application/json", 400, "not JSON that can be read"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "application/json", 400, "not JSON that can be read"),
        (b"hello", "text/plain", 415, "must be JSON (application/json) or a form"),
        (b"hello", "multipart/form-data", 400, "The form cannot be read"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x", 422, "image is missing"),
    ],
)
def test_a_broken_body_is_refused_in_one_sentence(content, kind, status, said, serving):
    answer = serving().post("/v1/caption", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_a_model_that_is_not_there_is_404_with_what_there_is(serving, models_of):
    client = serving(models=Models(captioner=models_of().captioner))
    for task, option in (("answer", "--answerer NAME"), ("search", "--search-index FOLDER")):
        status, found = post(client, task, b"x")
        assert status == 404
        assert option in found["error"]
        assert found["error"].endswith("there is /v1/caption.")
    assert post(client, "nothing")[0] == 404
    assert client.get("/v1/caption").status_code == 405
    assert set(client.get("/openapi.json").json()["paths"]) == {"/v1/caption", "/healthz", "/readyz", "/metrics"}


def test_the_documentation_has_every_option_and_loads_nothing_from_elsewhere(serving):
    client = serving()
    described = client.get("/openapi.json").json()
    for task in TASKS.values():
        body = described["paths"][f"/v1/{task.name}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        options = {*GENERATION, "seed"} if task.generates else set()
        assert set(body["properties"]) == {"image", *(row.name for row in task.fields), *options}
    assert {row.name for row in GenerationConfig.options()} == set(GENERATION) | HIDDEN
    page = client.get("/docs").text
    assert "/v1/caption" in page
    assert not re.findall(r"<script|https?://|@import|url\(", page)


def test_health_and_metrics(serving, files):
    client = serving()
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    post(client, "caption", files[0])
    post(client, "caption", b"nothing")
    text = client.get("/metrics").text
    for status in (200, 422):
        assert f'blip_requests_total{{status="{status}",task="caption"}} 1.0' in text
    assert 'blip_request_seconds_count{task="caption"} 2.0' in text
    assert "blip_queue 0.0" in text


def test_a_task_of_ones_own_is_a_row(serving, files):
    from blip_core.serving.api_tasks import Task, register

    def compute(models, asks):
        return [{"brightness": float(np.mean(ask.pixels))} for ask in asks]

    register(Task("brighten", "captioner", "Say how bright it is.", (), lambda *_: None, compute))
    try:
        status, found = post(serving(), "brighten", files[0])
        assert (status, list(found)) == (200, ["brightness"])
    finally:
        del TASKS["brighten"]
