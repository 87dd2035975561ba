"""The page in a real browser, without a screen: nothing in its console, places to the pixel, keys, two widths."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medsoft.evaluation.comparison.reader_study import read_reviews
from medsoft.viewer.app import make_app
from medsoft.viewer.find import find_cases
from medsoft.viewer.serve import listen, make_server, serve
from tests.builders.view import write_run, write_slides_folder, write_volume_run
from tests.builders.waiting import LIMIT_SECONDS, wait_until

selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver import Chrome, ChromeOptions, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no browser here: apt-get install chromium chromium-driver"),
]

WIDE, NARROW = (1280, 800), (390, 844)
SLIDE, VOLUME = 6, 7
NAMED = (
    "return [...document.querySelectorAll('#view button')].every((one) => one.offsetParent === null || "
    "one.textContent.trim() || one.ariaLabel)"
)
STAGE = (
    "const {x, y, width, height} = document.querySelector('#stage').getBoundingClientRect();"
    "return [x, y, width, height].map(Math.round)"
)
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


@dataclass
class Page:
    """The page of a viewer in a browser."""

    driver: Chrome
    address: str
    run: Any

    def open(self, number: int | None = None, size: tuple[int, int] = WIDE) -> None:
        """Load the page, at a case where one is named, and wait until it is drawn."""
        self.resize(size)
        self.driver.get("about:blank")
        self.driver.get(self.address + (f"#case={number}" if number is not None else ""))
        wait_until(lambda: self.js("return document.body?.dataset.loaded"))
        if number is not None:
            self.ready(number)

    def resize(self, size: tuple[int, int]) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def ready(self, number: int) -> None:
        wait_until(lambda: self.js("return document.body.dataset.ready") == str(number))

    def js(self, script: str, *given: object) -> Any:
        return self.driver.execute_script(script, *given)

    def picture(self) -> np.ndarray:
        """The window as (H, W, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")).astype(int)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def element(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def said(self) -> list[str]:
        """What the console says that is no mere information."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] in ("WARNING", "SEVERE")]

    @property
    def names(self) -> list[str]:
        return self.js("return [...document.querySelectorAll('tbody tr')].map((row) => row.cells[0].title)")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("viewed")
    run, slides = write_run(folder / "pictures"), write_slides_folder(folder / "slides")
    paths = [run, slides, write_volume_run(folder / "volumes"), folder / "slides" / "regions"]
    bound = listen(None)
    server = make_server(make_app(find_cases([str(path) for path in paths]), "token"), bound, "token", False)
    thread = threading.Thread(target=serve, args=(server, bound))
    thread.start()
    options = ChromeOptions()
    options.binary_location = BROWSER
    for switch in (*SWITCHES, *SOFTWARE):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        driver = Chrome(options=options, service=Service(DRIVER))
        driver.set_page_load_timeout(LIMIT_SECONDS)
        try:
            yield Page(driver, server.address, run)
        finally:
            driver.quit()
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "390"])
@pytest.mark.parametrize("number", [None, 0, SLIDE, VOLUME], ids=["list", "picture", "slide", "volume"])
def test_nothing_is_wrong_and_nothing_sticks_out(page, number, size):
    page.said()
    page.open(number, size)
    assert page.said() == []
    assert page.js("return document.documentElement.scrollWidth") == size[0]
    assert "token" not in page.js("return location.href")
    if number is not None:
        x, y, width, height = page.js(STAGE)
        assert height >= 220
        shown = page.picture()[y : y + height, x : x + width]
        assert shown.std() > 10  # something is drawn
        assert page.js(NAMED)


def box_of(found: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom of what is True, ends not included; of the largest part of rows and columns."""
    rows, columns = np.flatnonzero(found.sum(axis=1) > 20), np.flatnonzero(found.sum(axis=0) > 20)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize("zoom", [1.0, 2.3])
def test_what_lies_over_the_slide_is_aligned_to_one_pixel(page, zoom):
    page.open(SLIDE)
    page.js(
        "const {viewer, item} = medsoftSlide; const centre = item.imageToViewportCoordinates(528, 336);"
        "viewer.viewport.panTo(centre, true);"
        "viewer.viewport.zoomTo(item.imageToViewportZoom(arguments[0]), centre, true);"
        "for (const path of document.querySelectorAll('.outlines path')) path.setAttribute('visibility', 'hidden')",
        zoom,
    )
    drawn = "return medsoftSlide.overlay?.getFullyLoaded() && medsoftSlide.item.getFullyLoaded()"
    wait_until(lambda: page.js(drawn))

    def stage(opacity: float) -> np.ndarray:
        # Two frames later it is drawn.
        page.driver.execute_async_script(
            "const done = arguments[1]; medsoftSlide.overlay.setOpacity(arguments[0]);"
            "medsoftSlide.viewer.forceRedraw();"
            "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50)))",
            opacity,
        )
        x, y, width, height = page.js(STAGE)
        part = page.picture()[y : y + height, x : x + width]
        part[:160, -260:] = 255  # the overview
        part[-80:, :220] = 255  # the scale bar
        return part

    under, over = stage(0.0), stage(1.0)
    dark = box_of((np.abs(under - (70, 40, 110)) < 40).all(axis=2))
    red = box_of((over[..., 0] > over[..., 2] + 60) & (over[..., 0] > over[..., 1] + 60))
    assert abs((dark[2] - dark[0]) - 96 * zoom) <= 2
    assert np.abs(dark - red).max() <= 1
    outline = page.js(
        "const path = document.querySelector('.outlines path'); path.setAttribute('visibility', 'visible');"
        "const b = path.getBoundingClientRect(), s = document.querySelector('#stage').getBoundingClientRect();"
        "return [b.left - s.left, b.top - s.top, b.right - s.left, b.bottom - s.top]"
    )
    assert np.abs(np.array(outline) - dark).max() <= 1.5  # half a line more on each side
    text, line = page.js(
        "const bar = document.querySelector('.scale');"
        "return [bar.textContent, bar.querySelector('i').getBoundingClientRect().width]"
    )
    assert float(text.split()[0]) == pytest.approx(line / zoom * 0.5, rel=0.02)  # µm of a slide of 0.5 µm/px


def test_a_tile_of_the_strip_jumps_to_its_place(page):
    page.open(SLIDE)
    page.element("#strip button").click()
    inside = (
        "const {x, y} = medsoftSlide.item.viewportToImageCoordinates(medsoftSlide.viewer.viewport.getCenter());"
        "return Math.abs(x - 528) < 1 && Math.abs(y - 336) < 1"
    )
    wait_until(lambda: page.js(inside))
    assert page.element("#strip button").get_attribute("aria-pressed") == "true"


def test_the_class_and_the_opacity_are_chosen(page):
    page.open(SLIDE)
    options = page.js("return [...document.querySelector('#controls select').options].map((o) => o.textContent)")
    assert options == ["nothing", "contributions: ill", "contributions: healthy", "tiles"]
    page.js(
        "const s = document.querySelector('#controls select'); s.value = 'tiles'; s.dispatchEvent(new Event('change'))"
    )
    wait_until(lambda: page.js("return medsoftSlide.overlay?.source.getTileUrl(1, 0, 0).includes('/tiles/tiles/')"))
    assert not page.element("#strip").is_displayed()


def test_the_list_is_sorted_filtered_and_searched(page):
    page.open()
    assert page.names == [f"im{n}" for n in range(6)]
    page.element("th[data-name=sure] button").click()
    assert page.names[:2] == ["im3", "im1"]
    assert page.element("th[data-name=sure]").get_attribute("aria-sort") == "ascending"
    page.element("th[data-name=sure] button").click()
    assert page.names[-1] == "im3"
    page.element("th[data-name=sure] button").click()
    page.element("[data-filter=wrong]").click()
    assert page.names == ["im1", "im3"]
    page.element("[data-filter=unsure]").click()
    assert page.names == ["im3"]
    page.element("[data-filter=wrong]").click()
    page.element("[data-filter=unsure]").click()
    page.element("[data-filter=far]").click()
    assert page.names == ["im2"]
    page.element("[data-filter=far]").click()
    page.element("#search").send_keys("im4")
    assert page.names == ["im4"]


def test_everything_is_reached_with_the_keyboard(page):
    page.open()
    page.element("#search").click()
    for _ in range(20):  # to the table, past filters and heads
        page.press(Keys.TAB)
        if page.js("return document.activeElement.tagName") == "TR":
            break
    page.press(Keys.ARROW_DOWN, Keys.ENTER)
    page.ready(1)
    page.js("document.activeElement.blur()")
    page.element("body").send_keys("]")
    page.ready(2)
    page.element("body").send_keys("[")
    page.ready(1)
    page.element("body").send_keys("2")
    wait_until(lambda: page.element("#saved").text == "saved")
    reviews = read_reviews(page.run / "reviews.csv")
    assert reviews["im1", "test", ""].verdict == "disagree"
    note = page.element("#note")
    note.send_keys("a [note] 1")
    wait_until(lambda: read_reviews(page.run / "reviews.csv")["im1", "test", ""].note == "a [note] 1")
    assert page.js("return document.activeElement.id") == "note"
    page.element("#note").send_keys(Keys.TAB)
    page.open(1)
    assert page.element("[value=disagree]").is_selected()
    assert note_of(page) == "a [note] 1"


def note_of(page: Page) -> str:
    return page.element("#note").get_attribute("value")


def test_the_window_of_a_radiograph_is_moved(page):
    page.open(1)
    middle = (
        "const c = document.querySelector('#stage canvas');"
        "return c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data[0]"
    )
    before = page.js(middle)
    assert 90 < before < 165  # the middle of the ramp
    set_ = (
        "const i = document.querySelector('#controls input');"
        "i.value = arguments[0]; i.dispatchEvent(new Event('input'))"
    )
    page.js(set_, 1900)
    wait_until(lambda: page.js(middle) < before - 40)
    [invert] = [one for one in page.driver.find_elements(By.CSS_SELECTOR, "#controls button") if one.text == "Invert"]
    invert.click()
    wait_until(lambda: page.js(middle) > before)


def test_on_a_narrow_screen_the_list_gives_way_and_comes_back(page):
    page.open(size=NARROW)
    assert not page.element("#view").is_displayed()
    page.element("tbody tr").click()
    page.ready(0)
    assert page.element("#view").is_displayed()
    page.element("#back").click()
    assert page.element("tbody tr").is_displayed()
