"""Chromium without a window, for tests of pages: what it shows, what its console says, and which hosts it asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",  # a camera that shows a drawing
)  # fmt: skip


def chromium() -> Iterator[Any]:
    """A driver of Chromium, for a fixture."""
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("needs Chromium and its driver, which are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


def set_size(driver: Any, width: int, height: int = 800) -> None:
    """Give the page a size; narrow ones are those of a phone."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def complaints(driver: Any) -> list[Any]:
    """What the console says since the last call."""
    return [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"]


def addresses(driver: Any) -> set[str]:
    """The hosts of all requests since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).netloc for url in sent if urlsplit(url).scheme not in ("blob", "data")}
