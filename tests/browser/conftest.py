"""What the tests of docs/browser need beside Python: Node for its modules, and Chromium for the page."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.helpers.chromium import addresses, chromium, complaints, set_size

RUN = Path(__file__).with_name("run.mjs")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def javascript() -> Callable[..., Any]:
    """Call a function of `run.mjs` with named arguments; an error there is a `ValueError`."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which is not installed: apt-get install nodejs")

    def call(name: str, **arguments: Any) -> Any:
        ran = subprocess.run([node, RUN, name], input=json.dumps(arguments), text=True, capture_output=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        answer = json.loads(ran.stdout)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["result"]

    return call


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with all that it runs: today's files and exports, and the ONNX Runtime that `make browser` fetched."""
    pytest.importorskip("onnx")
    runtime = ROOT / ".browser" / "runtime"
    if not runtime.is_dir():
        pytest.skip("needs ONNX Runtime for browsers, which is not there: make browser")
    from docs.browser import build

    folder = tmp_path_factory.mktemp("page")
    build.copy_page(folder)
    build.export_models(folder)
    (folder / "runtime").symlink_to(runtime)
    return folder


class Page:
    """The page in a browser, and what tests do with it. At the end of a test nothing may be wrong in its console."""

    def __init__(self, driver: Any, folder: Path):
        self.driver, self.folder = driver, folder
        self.may_complain = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=folder))
        self.port = self.server.server_port
        Thread(target=self.server.serve_forever, daemon=True).start()
        complaints(driver), addresses(driver)  # those of other tests are left behind

    def stop_server(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def open(self, query: str = "", width: int = 1100, ready: bool = True) -> None:
        """Load the page at a width, and wait until its models are loaded."""
        set_size(self.driver, width)
        self.driver.get(f"http://127.0.0.1:{self.port}/{query}")
        if ready:
            self.wait_until(lambda: self.run("return document.body.dataset.ready"))

    def run(self, script: str, **names: Any) -> Any:
        """Run JavaScript in the page, with these names; what it returns, or its error as an `AssertionError`."""
        if f":{self.port}/" not in self.driver.current_url:
            self.open()
        body = f"(async ({{ {', '.join(names)} }}) => {{ {script} }})(arguments[0])"
        ran = (
            f"{body}.then((result) => arguments[1]({{ result }}), (error) => arguments[1]({{ error: String(error) }}))"
        )
        answer = self.driver.execute_async_script(ran, names)
        assert "error" not in answer, answer["error"]
        return answer.get("result")

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def choose(self, name: str, path: Path) -> None:
        self.find(f"#{name}").send_keys(str(path))

    def wait_for(self, selector: str, text: str) -> None:
        self.wait_until(
            lambda: self.run("return document.querySelector(selector)?.textContent", selector=selector) == text
        )

    def wait_until(self, true: Callable[[], Any]) -> None:
        end = time.monotonic() + 60
        while not true():
            assert time.monotonic() < end, (self.find("main").text, complaints(self.driver))
            time.sleep(0.05)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """Chromium without a window."""
    yield from chromium()


@pytest.fixture
def page(site: Path, driver: Any) -> Iterator[Page]:
    """The page at an address of its own; afterwards the console must be clean, and no other host have been asked."""
    page = Page(driver, site)
    yield page
    page.stop_server()
    driver.get("about:blank")
    assert addresses(driver) <= {f"127.0.0.1:{page.port}"}
    assert page.may_complain or not complaints(driver)
