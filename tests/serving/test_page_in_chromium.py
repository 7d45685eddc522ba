"""The page in Chromium: what people do with it, by hand and by keyboard, on a phone, in the light and in the dark."""

import base64
import time
from pathlib import Path

import gradio  # noqa: F401  # skipped as a whole without it
import pytest

from blip_core import Captioner
from tests.helpers.chromium import addresses, chromium, complaints, set_size
from tests.helpers.served import served

pytestmark = [pytest.mark.slow, pytest.mark.needs("pt")]
EMOJI = {path.stem: path for path in (Path(__file__).parents[1] / "data" / "emoji").glob("*.png")}
FOX, PIZZA = EMOJI["1f98a"], EMOJI["1f355"]
TABS = ["Caption", "Ask", "Match", "Where", "Find"]


@pytest.fixture(scope="module")
def driver():
    """Chromium without a window."""
    yield from chromium()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server with the model in the package and an index of six drawings."""
    from blip_core.inference import Explainer
    from blip_core.search import Searcher

    root = tmp_path_factory.mktemp("index")
    pictures = root / "pictures"
    pictures.mkdir()
    for path in [FOX, PIZZA, *sorted(EMOJI.values())[:4]]:
        (pictures / path.name).write_bytes(path.read_bytes())
    with Searcher(Explainer.from_pretrained(engine="pt"), pictures, index=root / "index") as searcher:
        assert not [error for _, error in searcher.update() if error]
    with served("--search-index", root / "index") as address:
        yield address


class Page:
    """The page, and what tests do with it."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address

    def open(self, width=1100, height=900):
        set_size(self.driver, width, height)
        self.driver.get(self.address)
        self.until(lambda: self.find("input[type=file]") and self.find("button[role=tab]"))

    def find(self, selector):
        """The elements that are shown, and inputs of files, which never are."""
        found = self.driver.find_elements("css selector", selector)
        return [one for one in found if one.is_displayed() or one.get_attribute("type") == "file"]

    def run(self, script, *values):
        return self.driver.execute_async_script(
            f"const done = arguments[arguments.length - 1];"
            f"(async (...given) => {{ {script} }})(...arguments).then(done, (error) => done(`error: ${{error}}`))",
            *values,
        )

    def until(self, true):
        end = time.monotonic() + 60
        while not (found := true()):
            assert time.monotonic() < end, (self.find("body")[0].text, complaints(self.driver))
            time.sleep(0.05)
        return found

    def text_of(self, selector):
        """The text of an element, once there is one."""
        return self.until(lambda: " ".join(one.text for one in self.find(selector)).strip())

    def give(self, path):
        self.find("input[type=file]")[0].send_keys(str(path))

    def tab(self, name):
        """Choose a tab; on a phone, the last of them are in a menu."""
        if name not in [one.text for one in self.find("button[role=tab]")]:
            self.find(".overflow-menu > button")[0].click()
        self.until(
            lambda: [one for one in self.find(".tab-container button, .overflow-menu button") if one.text == name]
        )[0].click()

    def button(self, name):
        self.until(lambda: [one for one in self.find("button") if one.text.split("\n")[0] == name])[0].click()

    def write(self, label, text):
        """Write into the field of a label."""
        field = next(one for one in self.find("label") if one.text.startswith(label))
        field = field.find_element("css selector", "textarea, input")
        field.clear()
        field.send_keys(text)
        return field

    def said(self):
        """The captions or the answer, without the sentence below each."""
        return self.until(lambda: [" ".join(one.text.split()) for one in self.find(".blip-said")])


@pytest.fixture
def page(driver, address):
    """The page just opened; afterwards the console must be clean, and no other host have been asked."""
    driver.get("about:blank")
    complaints(driver), addresses(driver)  # those of other tests are left behind
    page = Page(driver, address)
    page.open()
    yield page
    driver.get("about:blank")
    assert addresses(driver) == {address.removeprefix("http://")}
    assert not [one for one in complaints(driver) if one["level"] == "SEVERE"]  # Gradio warns of its own streams


@pytest.fixture(scope="module")
def caption():
    return Captioner.from_pretrained(engine="pt")(FOX).text


def test_a_picture_is_described(page, caption):
    assert [one.text for one in page.find("button[role=tab]")] == TABS
    assert "knows drawings of emoji" in page.text_of(".blip-head p")
    page.give(FOX)
    assert page.said() == [caption]
    shades = [one.value_of_css_property("background-color") for one in page.find(".blip-said span")]
    assert all(shade not in ("", "rgba(0, 0, 0, 0)") for shade in shades)
    for method, count in (("Beams", 3), ("Samples", 3), ("Greedy", 1)):
        next(one for one in page.find("label") if one.text == method).click()
        page.button("Describe")
        page.until(lambda count=count: len(page.find(".blip-said")) == count)
    assert not [one for one in page.find("label") if "Most tokens" in one.text]  # settings are folded away
    page.button("Settings")
    page.write("Begin with", "red")
    page.button("Describe")
    page.until(lambda: page.said()[0].startswith("red "))


def test_a_word_that_is_pointed_at_shows_where_it_is(page):
    from selenium.webdriver import ActionChains

    page.give(FOX)
    page.said()
    page.tab("Where")
    page.write("What the picture may show", "an orange fox\n")
    page.until(lambda: len(page.find(".blip-heat button")) == 3)
    words = page.find(".blip-heat button")
    assert [word.text for word in words] == ["an", "orange", "fox"]

    def shown():
        maps = page.driver.find_elements("css selector", ".blip-heat .stage img + img, .blip-heat .stage img ~ img")
        return [n for n, one in enumerate(maps) if float(one.value_of_css_property("opacity")) > 0.9]

    page.until(lambda: shown() == [])
    ActionChains(page.driver).move_to_element(words[2]).perform()
    page.until(lambda: shown() == [2])
    ActionChains(page.driver).move_to_element(page.find("h1")[0]).perform()
    page.until(lambda: shown() == [])
    page.run("given[0].focus()", words[1])
    page.until(lambda: shown() == [1])


def test_a_picture_is_pasted_dropped_or_taken(page, caption):
    def fox(script):
        return page.run(
            "const blob = await (await fetch(`data:image/png;base64,${given[0]}`)).blob();" + script,
            base64.b64encode(FOX.read_bytes()).decode(),
        )

    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    assert fox("await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);") is None
    page.find("button[aria-label='Paste from clipboard']")[0].click()
    assert page.said() == [caption]
    page.open()
    dropped = """
        const files = new DataTransfer();
        files.items.add(new File([blob], "fox.png", { type: "image/png" }));
        const place = document.querySelector("input[type=file]").parentElement;
        for (const kind of ["dragenter", "dragover", "drop"])
            place.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: files }));
    """
    assert fox(dropped) is None
    assert page.said() == [caption]
    page.open()
    page.find("button[aria-label='Capture from camera']")[0].click()
    page.button("Click to Access Webcam")
    page.until(lambda: page.find("button[aria-label='capture photo']"))[0].click()
    assert len(page.said()) == 1


def test_the_keyboard_alone_is_enough(page):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(page.driver).send_keys(*keys).perform()

    def reach(what, key=Keys.TAB):
        """Move on until an element has the focus that a script says yes to."""
        for _ in range(60):
            press(key)
            if page.run(f"const one = document.activeElement; return Boolean({what})"):
                outline = page.run("return getComputedStyle(document.activeElement).outlineStyle + "
                                   "getComputedStyle(document.activeElement).boxShadow")  # fmt: skip
                return outline
        raise AssertionError(f"Tab never reaches {what}")

    reach("one.closest('.gallery') || one.className.includes('gallery-item')")
    press(Keys.ENTER)
    assert len(page.said()) == 1
    reach("one.role === 'tab' || one.getAttribute('role') === 'tab'")
    for _ in range(5):
        if page.run("return document.activeElement.textContent.trim() === 'Ask'"):
            break
        press(Keys.TAB)
    press(Keys.ENTER)
    reach("one.tagName === 'TEXTAREA' || one.type === 'text'")
    press("what color is it mostly?", Keys.ENTER)
    assert len(page.said()) == 1
