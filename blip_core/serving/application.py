"""The application: the API of the tasks, its documentation, health and metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import blip_core
from blip_core.jobs.read_ahead import in_one_line
from blip_core.serving.api_tasks import TASKS, Ask, Task, parse_values
from blip_core.serving.batcher import Batcher
from blip_core.serving.documentation import describe_task, documentation_page
from blip_core.serving.errors import BROKEN, Refused
from blip_core.serving.guard import Guard, log_error
from blip_core.serving.metrics import Metrics
from blip_core.serving.reading import content_of, read_request
from blip_core.serving.request_pictures import check_picture
from blip_core.serving.served_models import Models
from blip_core.serving.server_settings import Settings

READERS = 4
"""Pictures that are decoded at once."""


class Service:
    """Answers requests with models: what the API and the page have in common.

    Args:
        models: The models.
        settings: The limits.
    """

    def __init__(self, models: Models, settings: Settings):
        self.models, self.settings = models, settings
        self.batcher = Batcher(settings.batch_size, settings.queue, self._computed)
        self.metrics = Metrics(lambda: self.batcher.taken)
        self._readers = asyncio.Semaphore(READERS)
        self.stopping = False

    def task(self, name: str) -> Task:
        """Return a task by its name. Raises `Refused`, 404, where no model is there for it, saying what there is."""
        there = [task.name for task in TASKS.values() if getattr(self.models, task.needs) is not None]
        if name in there:
            return TASKS[name]
        wanted = TASKS[name].needs if name in TASKS else None
        option = {"searcher": "--search-index FOLDER"}.get(str(wanted), f"--{wanted} NAME")
        hint = f"this server has no {wanted} (start it with {option})" if wanted else "there is no such task"
        raise Refused(404, f"No {name:.60}: {hint}; there is {', '.join(f'/v1/{one}' for one in there)}.")

    async def prepare(
        self, task: Task, fields: dict[str, Any], image: bytes | str | None, name: str | None = None
    ) -> Ask:
        """Check a request and decode its picture. Raises `Refused`."""
        if image is None and task.picture:
            raise Refused(422, "image is missing; send a picture.")
        try:
            values = parse_values(task, fields)
            task.check(self.models, values, image is not None)
            ask = Ask(task, values, name=name)
        except (ValueError, TypeError) as error:
            raise Refused(422, in_one_line(error)) from None
        if image is not None:
            async with self._readers:
                ask.pixels = await asyncio.to_thread(self._pixels, task, image)
        return ask

    async def answer(self, ask: Ask) -> dict[str, Any]:
        """Compute a request with what waits beside it. Raises `Refused`."""
        try:
            compute = partial(ask.task.compute, self.models)
            result: dict[str, Any] = await self.batcher.submit(ask.key, compute, ask)
            return result
        except ValueError as error:
            raise Refused(422, in_one_line(error)) from None

    def _pixels(self, task: Task, image: bytes | str) -> Any:
        content = content_of(image, self.settings)
        assert content is not None
        check_picture(content, self.settings)
        try:
            return self.models.reader(task.needs).read(content)
        except (OSError, ValueError) as error:  # the processor speaks of images, of which it takes many
            raise Refused(422, in_one_line(error).replace("images ", "image ", 1)) from None

    def _computed(self, key: Any, count: int) -> None:
        self.metrics.batches.labels(key[0]).observe(count)


def create_app(service: Service) -> FastAPI:
    """Make the application.

    Args:
        service: What answers its requests.

    Returns:
        An ASGI application; `serve` runs it, as any ASGI server can. A page may be mounted into it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.stopping = True
        service.batcher.close()

    app = FastAPI(
        title="BLIP", version=blip_core.__version__, summary="Captions, answers and matches of pictures.",
        description=service.models.about, docs_url=None, redoc_url=None, lifespan=lifespan,
    )  # fmt: skip
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _broken)  # the guard then logs it
    if service.settings.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(service.settings.cors), allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )  # fmt: skip
    for task in TASKS.values():
        if getattr(service.models, task.needs) is not None:
            app.add_api_route(
                f"/v1/{task.name}", partial(_ask, service, task.name), methods=["POST"], summary=task.title,
                operation_id=task.name, openapi_extra=describe_task(task), response_class=JSONResponse,
            )  # fmt: skip

    @app.get("/healthz", summary="Say that the server runs.")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Say whether the server takes requests: 503 while it stops, or has no place free.")
    async def ready() -> Response:
        free = not service.stopping and service.batcher.taken < service.batcher.places
        return JSONResponse({"status": "ready" if free else "busy"}, 200 if free else 503)

    @app.get("/metrics", summary="Count requests, seconds, batches and the queue, for Prometheus.")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return HTMLResponse(documentation_page(app.openapi()))

    @app.api_route("/v1/{name:path}", methods=["GET", "POST"], include_in_schema=False)
    async def other(name: str) -> Response:
        service.task(name)
        raise Refused(405, f"/v1/{name} takes POST.", {"Allow": "POST"})

    return app


def guarded(app: FastAPI, service: Service) -> Guard:
    """Put the guard before an application."""
    return Guard(app, service.settings)


async def _ask(service: Service, name: str, request: Request) -> Response:
    """Answer a request of a task: at once, or token by token."""
    begin, status = asyncio.get_running_loop().time(), 499
    try:
        task = service.task(name)
        given = await read_request(request, task)
        response = await _within(request, service.settings.timeout, _answer(service, task, *given))
        status = response.status_code
        return response
    except Refused as refused:
        status = refused.status
        raise
    except Exception:
        status = 500
        raise
    finally:
        service.metrics.requests.labels(name, status).inc()
        service.metrics.seconds.labels(name).observe(asyncio.get_running_loop().time() - begin)


async def _answer(
    service: Service, task: Task, fields: dict[str, Any], image: bytes | str | None, name: str | None
) -> Response:
    with service.batcher.place():
        ask = await service.prepare(task, fields, image, name)
        if ask.values.get("stream"):
            return StreamingResponse(_events(service, ask), media_type="text/event-stream")
        return JSONResponse(await service.answer(ask))


async def _events(service: Service, ask: Ask) -> AsyncIterator[str]:
    """The tokens of a request as server-sent events, then its result, or an error."""
    loop, news = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

    def listen(token: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(news.put_nowait, token)

    ask.listener = listen
    try:
        with service.batcher.place():
            async with asyncio.timeout(service.settings.timeout):
                work = asyncio.create_task(service.answer(ask))
                work.add_done_callback(lambda _: news.put_nowait(None))
                try:
                    while (token := await news.get()) is not None:
                        yield _event("token", token)
                    yield _event("result", await work)
                finally:
                    work.cancel()
    except Refused as refused:
        yield _event("error", refused.to_dict())
    except TimeoutError:
        yield _event("error", _late(service.settings.timeout).to_dict())
    except Exception as error:
        log_error(error)
        yield _event("error", BROKEN.to_dict())


def _event(name: str, content: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"


async def _within(request: Request, seconds: float, answer: Any) -> Response:
    """Wait for an answer as long as the client does, and no longer than a limit."""
    work = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait({work, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            response: Response = work.result()
            return response
        if leaving.done():
            raise Refused(499, "The client has left.")
        raise _late(seconds)
    finally:
        work.cancel()
        leaving.cancel()


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _late(seconds: float) -> Refused:
    return Refused(504, f"The answer took longer than {seconds:g} s; ask for less, or again later.")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse(error.to_dict(), error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": f"{error.detail}."}, error.status_code, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse(BROKEN.to_dict(), BROKEN.status)
