"""Who may ask, how much, how fast, and what happens to requests that nobody can answer or waits for."""

import asyncio
import threading
import time

import pytest
import starlette  # noqa: F401  # skipped as a whole without it

from blip_core.serving import Settings, guard
from blip_core.serving.batcher import Batcher
from blip_core.serving.errors import Refused
from blip_core.serving.guard import Guard


def ask(client, file, **options):
    return client.post("/v1/caption", files={"image": file}, **options)


def test_the_key_is_needed_and_health_is_not(serving, files):
    client = serving(api_key="open sesame")
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic !!"},
        {"Authorization": "open sesame"},
    ):
        answer = ask(client, files[0], headers=headers)
        assert (answer.status_code, "A key is needed" in answer.json()["error"]) == (401, True)
    for path in ("/metrics", "/docs", "/openapi.json", "/"):
        assert client.get(path).status_code == 401
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    assert ask(client, files[0], headers={"Authorization": "Bearer open sesame"}).status_code == 200
    assert client.get("/docs", auth=("anybody", "open sesame")).status_code == 200  # as browsers ask for it
    with pytest.raises(ValueError, match="key is empty"):
        Settings(api_key=" ")


def test_a_borrowed_name_is_refused(serving):
    client = serving(hosts=("localhost", "[::1]"))
    for host, status in (
        ("localhost:7860", 200),
        ("LOCALHOST", 200),
        ("[::1]:7860", 200),
        ("evil.example", 421),
        ("", 421),
    ):
        assert client.get("/healthz", headers={"Host": host}).status_code == status


def test_other_sites_may_not_read_answers_unless_told(serving):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in serving().get("/healthz", headers=asked).headers
    client = serving(cors=("https://good.example",))
    assert "access-control-allow-origin" not in client.get("/healthz", headers=asked).headers
    answer = client.get("/healthz", headers={"Origin": "https://good.example"})
    assert answer.headers["access-control-allow-origin"] == "https://good.example"


def test_a_body_that_is_too_large_is_refused(serving, files):
    client = serving(max_body=0.01)
    answer = client.post("/v1/caption", content=b"x" * 11000, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (
        413,
        {"error": "The request is larger than 0.01 MB; send a smaller picture."},
    )
    parts = (b"x" * 1000 for _ in range(20))  # of a size that no header tells
    answer = client.post("/v1/caption", content=parts, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    for length in ("-1", "1e3", "9" * 50):
        assert client.get("/healthz", headers={"Content-Length": length}).status_code == 413


def call(guard, path="/v1/caption", parts=(), method="POST"):
    """Call an application as a server does; `parts` of the body come one by one, then nothing. Returns the messages."""

    async def run():
        sent, rest = [], list(parts)

        async def receive():
            if rest:
                return rest.pop(0)
            await asyncio.sleep(3600)

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {
            "type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "scheme": "http",
            "server": ("localhost", 80), "client": ("localhost", 1), "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        await asyncio.wait_for(guard(scope, receive, send), 20)
        return sent

    return run()


def test_uploads_to_the_page_cannot_fill_the_disk(monkeypatch):
    async def reading(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    limited = Guard(reading, Settings())
    monkeypatch.setattr(guard, "UPLOADS", 1500)

    def status(path="/gradio_api/upload"):
        parts = [{"type": "http.request", "body": b"x" * 1000, "more_body": False}]
        return asyncio.run(call(limited, path, parts))[0]["status"]

    assert [status() for _ in range(3)] == [200, 200, 503]
    assert status("/v1/caption") == 200
    monkeypatch.setattr(guard, "KEPT", 0)  # all have been removed by now
    assert status() == 200


def test_a_body_that_trickles_is_refused_in_time(serving):
    client = serving(body_timeout=0.3)
    begin = time.monotonic()
    sent = asyncio.run(call(client.app, parts=[{"type": "http.request", "body": b"{", "more_body": True}]))
    assert (sent[0]["status"], b"took more than 0.3 s to arrive" in sent[1]["body"]) == (408, True)
    assert time.monotonic() - begin < 5


def test_a_mistake_of_ours_tells_strangers_nothing(serving, models_of, files, monkeypatch, log):
    client = serving()

    def broken(*_, **__):
        raise RuntimeError("secret words of a request")

    monkeypatch.setattr(models_of().captioner, "write", broken)
    answer = ask(client, files[0])
    assert (answer.status_code, answer.json()) == (
        500,
        {"error": "Something went wrong in the server; its log says where."},
    )
    assert "RuntimeError in " in log.getvalue()
    assert "secret" not in log.getvalue()


def test_the_log_has_no_texts_and_no_query(serving, files, log):
    client = serving()
    client.post("/v1/match?text=secret", files={"image": ("secret.png", files[0])}, data={"text": "secret words"})
    client.get("/%0a%1b[31mline")
    assert "POST '/v1/match' 200" in log.getvalue()
    assert "secret words" not in log.getvalue()
    assert "secret.png" not in log.getvalue()
    assert "\x1b" not in log.getvalue()


class Held:
    """A computation that waits until it is let go, and records its batches."""

    def __init__(self):
        self.go, self.batches = threading.Event(), []

    def __call__(self, items):
        self.batches.append(list(items))
        assert self.go.wait(10)
        if "bad" in items:
            raise ValueError("bad")
        return [item.upper() for item in items]


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_batches_are_what_waits_of_one_kind():
    async def run():
        held, counts = Held(), []
        batcher = Batcher(3, 20, lambda key, count: counts.append((key, count)))
        first = asyncio.create_task(batcher.submit("x", held, "a"))
        await until(lambda: held.batches)
        others = [asyncio.create_task(batcher.submit(key, held, item)) for key, item in
                  [("x", "b"), ("y", "c"), ("x", "d"), ("x", "bad"), ("x", "e"), ("y", "f")]]  # fmt: skip
        gone = asyncio.create_task(batcher.submit("y", held, "gone"))
        await asyncio.sleep(0.05)
        gone.cancel()  # its client has left
        await asyncio.sleep(0.05)
        held.go.set()
        found = await asyncio.gather(first, *others, return_exceptions=True)
        assert [str(one) for one in found] == ["A", "B", "C", "D", "bad", "E", "F"]
        # The one that cannot be computed harms none of its batch: each of these is then computed by itself.
        assert held.batches == [["a"], ["b", "d", "bad"], ["b"], ["d"], ["bad"], ["c", "f"], ["e"]]
        assert counts == [("x", 1), ("x", 3), ("y", 2), ("x", 1)]
        batcher.close()

    asyncio.run(run())


def test_beyond_the_places_requests_are_refused_at_once():
    async def run():
        batcher = Batcher(2, 2)
        with batcher.place(), batcher.place():
            with pytest.raises(Refused) as refused, batcher.place():
                pass
            assert (refused.value.status, int(refused.value.headers["Retry-After"]) >= 1) == (503, True)
        with batcher.place():
            assert batcher.taken == 1

    asyncio.run(run())


@pytest.fixture
def held(models_of, monkeypatch):
    """A captioner that waits until it is let go."""
    captioner = models_of().captioner
    event, begun, write = threading.Event(), threading.Event(), captioner.write

    def wait(*args, **options):
        begun.set()
        assert event.wait(10)
        return write(*args, **options)

    monkeypatch.setattr(captioner, "write", wait)
    event.begun = begun
    yield event
    event.set()


def test_a_full_server_says_so_and_when_to_ask_again(serving, files, held):
    client = serving(queue=1)
    waiting = threading.Thread(target=lambda: results.append(ask(client, files[0])))
    results = []
    waiting.start()
    assert held.begun.wait(10)
    answer = ask(client, files[1])
    assert (answer.status_code, answer.json()) == (503, {"error": "The server is busy; ask again later."})
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.get("/readyz").status_code == 503
    held.set()
    waiting.join(10)
    assert results[0].status_code == 200
    assert client.get("/readyz").status_code == 200


def test_an_answer_that_takes_too_long_is_504(serving, files, held):
    client = serving(timeout=0.2)
    answer = ask(client, files[0])
    assert (answer.status_code, answer.json()) == (
        504,
        {"error": "The answer took longer than 0.2 s; ask for less, or again later."},
    )
    assert client.service.batcher.taken == 0


def test_a_request_whose_client_left_is_dropped(serving, files, held):
    import base64
    import json

    client = serving()
    body = json.dumps({"image": base64.b64encode(files[0]).decode()}).encode()
    parts = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    waiting = threading.Thread(target=lambda: ask(client, files[1]))
    waiting.start()
    assert held.begun.wait(10)
    client.portal.call(call, client.app, "/v1/caption", parts)
    assert client.service.batcher._waiting == []
    held.set()
    waiting.join(10)


def test_streams_of_the_page_end_when_the_server_stops():
    async def endless(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b""})

    async def run():
        guard = Guard(endless, Settings())
        parts = [{"type": "http.request", "body": b"", "more_body": False}]
        task = asyncio.create_task(call(guard, "/gradio_api/heartbeat", parts))
        await asyncio.sleep(0.05)
        assert not task.done()
        guard.stopping.set()
        assert len(await task) == 2

    asyncio.run(run())
