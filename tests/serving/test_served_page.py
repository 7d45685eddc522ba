"""The page: which tabs there are, what its parts say, and that it neither fetches nor follows what it is told."""

import asyncio
import re

import gradio
import numpy as np
import pytest
from PIL import Image

from blip_core.inference.results import Explanation
from blip_core.serving import Models, Settings, page_parts
from blip_core.serving.application import Service, create_app, guarded
from blip_core.serving.page import ask, make_page, mount_page, take_unopened


def tabs(models):
    """The titles of the tabs."""
    blocks = make_page(Service(models, Settings()))
    return [block.label for block in blocks.blocks.values() if isinstance(block, gradio.Tab)]


@pytest.mark.needs("pt")
def test_what_the_models_can_do_decides_what_is_shown(models_of):
    models = models_of()
    assert tabs(models) == ["Caption", "Ask", "Match", "Where", "Find"]
    assert tabs(Models(captioner=models.captioner)) == ["Caption"]
    assert tabs(Models(answerer=models.answerer, matcher=models.matcher)) == ["Ask", "Match", "Where"]


@pytest.mark.needs("pt")
def test_the_page_answers_as_the_api_does(models_of, folder, files):
    service = Service(models_of(), Settings())
    path = str(folder / "0.png")

    async def run():
        found = await ask(service, "caption", path, max_new_tokens=4)
        assert found["caption"] == models_of().captioner(files[0], max_new_tokens=4).text
        assert service.batcher.taken == 0
        for wrong, said in (({"question": ""}, "question has an empty text"), ({"question": "a " * 900}, "shorten it")):
            with pytest.raises(gradio.Error, match=said):
                await ask(service, "answer", path, **wrong)
        with pytest.raises(gradio.Error, match="Give a picture first"):
            await ask(service, "caption", None)

    asyncio.run(run())


@pytest.mark.needs("pt")
def test_the_page_is_served_beside_the_api_and_loads_nothing_from_elsewhere(models_of):
    from starlette.testclient import TestClient

    service = Service(models_of(), Settings())
    with TestClient(guarded(mount_page(create_app(service), service), service)) as client:
        answer = client.get("/")
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        loaded = re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?(https?://[^"'> ]+)""", answer.text)
        assert [url for url in loaded if not url.startswith("http://testserver")] == []
        config = client.get("/config").json()
        assert (config["analytics_enabled"], config["footer_links"]) == (False, [])
        assert client.post("/v1/nothing").status_code == 404  # the API comes before the page
        assert client.get("/gradio_api/file=/etc/passwd").status_code == 403


def test_addresses_are_not_fetched(monkeypatch):
    with gradio.Blocks(analytics_enabled=False):
        picture = gradio.Image(type="filepath")
    take_unopened(picture)
    with pytest.raises(gradio.Error, match="not fetched"):
        picture.move_resource_to_block_cache("http://example.org/a.png")
    with pytest.raises(gradio.Error, match="not fetched"):
        asyncio.run(picture.async_move_resource_to_block_cache("https://example.org/a.png"))
    assert picture.move_resource_to_block_cache(None) is None


def test_words_are_shaded_by_what_the_model_thought_of_each():
    found = page_parts.said(["a", "f", "##ox", "<b>", "[SEP]"], np.log([1, 0.5, 0.5, 0.2, 0.9]).tolist(), 0.7)
    assert re.findall(r"--sure:(\S+)\" title=\"(.*?) sure\">(.*?)<", found) == [
        ("1.000", "100%", "a"), ("0.250", "25%", "fox"), ("0.200", "20%", "&lt;b&gt;"),
    ]  # fmt: skip
    assert "70% sure of its words" in found


def test_texts_of_strangers_are_escaped():
    bad = "<img src=x onerror=alert(1)>"
    maps = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    image = Image.new("RGB", (40, 30), "red")
    explained = Explanation(
        None, bad, 0.5, (bad, "fox"), maps, np.array([1, 0.5], np.float32), (None, None), image=image
    )
    row = {"image": bad, "itc": 0.5, "itm": None}
    for part in (page_parts.bars([(bad, 0.5)]), page_parts.heat(explained), page_parts.head(bad), page_parts.note(bad),
                 page_parts.found_pictures([(row, None), (row, image)])):  # fmt: skip
        assert bad not in part
        assert "&lt;img src=x" in part
    heat = page_parts.heat(explained)
    assert heat.count("<img ") == 3  # the picture, and a map for each word
    assert heat.count("<button ") == 2
    assert not re.search(r'src="(?!data:image/webp)', heat)
