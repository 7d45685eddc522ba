"""The page: what the models can do, to look at. Built with Gradio, and mounted into the application."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import gradio
from fastapi import FastAPI

from blip_core.processing.picture_files import load_image
from blip_core.serving import page_parts as parts
from blip_core.serving.application import Service
from blip_core.serving.errors import Refused
from blip_core.serving.guard import KEPT
from blip_core.serving.request_pictures import check_picture

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
METHODS = ("Greedy", "Beams", "Samples")


def mount_page(app: FastAPI, service: Service) -> FastAPI:
    """Mount the page into an application, at /."""
    theme = gradio.themes.Soft(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    blocks = make_page(service)
    blocks.queue(default_concurrency_limit=service.settings.queue, max_size=service.settings.queue)
    mounted: FastAPI = gradio.mount_gradio_app(
        app, blocks, path="/", theme=theme, css=parts.STYLE, footer_links=[], run_history=False, ssr_mode=False,
        mcp_server=False, enable_monitoring=False, pwa=False, max_file_size=service.settings.body_bytes,
        show_error=False,
    )  # fmt: skip
    return mounted


def make_page(service: Service) -> Any:
    """Lay out the page; each tab is there if its model is."""
    models = service.models
    with gradio.Blocks(title="BLIP", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gradio.HTML(parts.head(models.about))
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                picture = gradio.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard", "webcam"], label="Picture",
                    height=320, buttons=[], placeholder="Drop, paste or choose a picture",
                )  # fmt: skip
                take_unopened(picture)
                if examples := sorted(str(path) for path in EXAMPLES.glob("*.png")):
                    gradio.Examples(examples, picture, label="Or one of these", examples_per_page=12)
            with gradio.Column(scale=3, min_width=300), gradio.Tabs():
                tabs = (
                    (models.captioner, "Caption", _caption_tab), (models.answerer, "Ask", _ask_tab),
                    (models.matcher, "Match", _match_tab), (models.explains, "Where", _where_tab),
                    (models.searcher, "Find", _find_tab),
                )  # fmt: skip
                for there, title, tab in tabs:
                    if there:
                        with gradio.Tab(title):
                            tab(service, picture)
    return blocks


def take_unopened(picture: Any) -> None:
    """Let a component hand on uploads as they are.

    It refuses addresses, which a request of a stranger may name and Gradio would fetch, and opens no file: what is
    broken, or too large to decode, is told in a sentence by our own checks.
    """
    inside = (picture.move_resource_to_block_cache, picture.async_move_resource_to_block_cache)

    def check(path: Any) -> None:
        if str(path).startswith(("http://", "https://")):
            raise gradio.Error("Pictures are not fetched by their address here.", print_exception=False)

    def move(path: Any) -> Any:
        check(path)
        return inside[0](path)

    async def move_soon(path: Any) -> Any:
        check(path)
        return await inside[1](path)

    picture.move_resource_to_block_cache, picture.async_move_resource_to_block_cache = move, move_soon
    picture.preprocess = lambda upload: upload and upload.path


def _caption_tab(service: Service, picture: Any) -> None:
    method = gradio.Radio(list(METHODS), value=METHODS[0], label="How to look for words")
    button = gradio.Button("Describe", variant="primary")
    out = gradio.HTML()
    with gradio.Accordion("Settings", open=False):
        prompt = gradio.Textbox(label="Begin with", placeholder="a picture of")
        texts = gradio.Slider(1, 8, 3, step=1, label="Beams, or samples")
        length = gradio.Slider(1, 30, 20, step=1, label="Most tokens")
        temperature = gradio.Slider(0.1, 2, 1, step=0.1, label="Temperature of samples")

    async def run(
        path: str | None, method: str, prompt: str | None, texts: float, length: float, temperature: float
    ) -> str:
        fields: dict[str, Any] = {"max_new_tokens": int(length)} | (
            {"prompt": prompt} if (prompt or "").strip() else {}
        )
        if method == "Beams":
            fields |= {"num_beams": int(texts), "num_return_sequences": int(texts)}
        if method == "Samples":
            fields |= {"do_sample": True, "num_return_sequences": int(texts), "temperature": temperature}
        found = await ask(service, "caption", path, **fields)
        return "".join(_said(one, (prompt or "").strip()) for one in [found, *found.get("others", [])])

    async def changed(path: str | None, *settings: Any) -> str:
        return await run(path, *settings) if path else ""

    inputs = [picture, method, prompt, texts, length, temperature]
    button.click(run, inputs, out, api_visibility="private")
    picture.change(changed, inputs, out, api_visibility="private")


def _ask_tab(service: Service, picture: Any) -> None:
    question = gradio.Textbox(label="Question", placeholder="what color is it mostly?", lines=1)
    choices = gradio.Textbox(label="Choices, one a line (or none)", lines=2)
    button = gradio.Button("Ask", variant="primary")
    out = gradio.HTML()

    async def run(path: str | None, question: str | None, choices: str | None) -> str:
        listed = _lines(choices)
        found = await ask(service, "answer", path, question=question or "", **({"choices": listed} if listed else {}))
        if listed:
            return parts.bars([(one["answer"], one["probability"]) for one in found["choices"]])
        return _said(found)

    for event in (button.click, question.submit):
        event(run, [picture, question, choices], out, api_visibility="private")


def _match_tab(service: Service, picture: Any) -> None:
    texts = gradio.Textbox(label="Texts, one a line", placeholder="a fox\na red car", lines=4)
    button = gradio.Button("Match", variant="primary")
    out = gradio.HTML()

    async def run(path: str | None, texts: str | None) -> str:
        found = await ask(service, "match", path, text=_lines(texts))
        return parts.bars([(row["text"], row["itm"]) for row in found["texts"]])

    button.click(run, [picture, texts], out, api_visibility="private")


def _where_tab(service: Service, picture: Any) -> None:
    text = gradio.Textbox(label="What the picture may show", placeholder="an orange fox", lines=1)
    button = gradio.Button("Show where", variant="primary")
    out = gradio.HTML()

    async def run(path: str | None, text: str | None) -> str:
        content = await _content(service, path)
        matcher = service.models.matcher
        assert matcher is not None

        def compute(items: Any) -> list[str]:
            return [parts.heat(matcher(content, text or ""))]

        return str(await _worded(service, service.batcher.submit(("explain", object()), compute, None)))

    for event in (button.click, text.submit):
        event(run, [picture, text], out, api_visibility="private")


def _find_tab(service: Service, picture: Any) -> None:
    text = gradio.Textbox(label="Look for", placeholder="in words; empty: pictures like this one", lines=1)
    button = gradio.Button("Find", variant="primary")
    out = gradio.HTML()

    async def run(path: str | None, text: str | None) -> str:
        words = (text or "").strip()
        found = await ask(service, "search", None if words else path, top=12, **({"text": words} if words else {}))
        return await asyncio.to_thread(_thumbnails, service, found["results"])

    for event in (button.click, text.submit):
        event(run, [picture, text], out, api_visibility="private")


async def ask(service: Service, name: str, path: str | None, **fields: Any) -> dict[str, Any]:
    """Ask as the API does, with errors in words on the page."""

    async def answer() -> dict[str, Any]:
        task = service.task(name)
        image = await _content(service, path) if path or task.picture else None
        return await service.answer(await service.prepare(task, fields, image))

    result: dict[str, Any] = await _worded(service, answer())
    return result


async def _worded(service: Service, work: Any) -> Any:
    try:
        with service.batcher.place():
            return await asyncio.wait_for(work, service.settings.timeout)
    except TimeoutError:
        raise gradio.Error("It took too long; ask for less.", print_exception=False) from None
    except (Refused, ValueError) as error:
        raise gradio.Error(" ".join(str(error).split()), print_exception=False) from None


async def _content(service: Service, path: str | None) -> bytes:
    if path is None:
        raise gradio.Error("Give a picture first: drop one, or choose an example.", print_exception=False)
    content = await asyncio.to_thread(Path(path).read_bytes)
    try:
        await asyncio.to_thread(check_picture, content, service.settings)
    except Refused as refused:
        raise gradio.Error(refused.sentence, print_exception=False) from None
    return content


def _thumbnails(service: Service, rows: list[dict[str, Any]]) -> str:
    assert service.models.searcher is not None
    folder = service.models.searcher.encoder.folder

    def thumbnail(name: str) -> Any:
        try:
            return parts.shrunk(load_image(os.path.join(folder, name)), 256)
        except (OSError, ValueError):
            return None

    return parts.found_pictures([(row, thumbnail(row["image"])) for row in rows])


def _said(found: dict[str, Any], before: str = "") -> str:
    return parts.said(found["tokens"], found["token_log_probs"], found["confidence"], before)


def _lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]
