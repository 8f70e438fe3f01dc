"""A browser without a window, as a person would use it."""

import contextlib
import importlib.util
import io
import re
import shutil
import time

import httpx
import numpy as np
import pytest
from PIL import Image

BINARY = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
)
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BINARY and DRIVER and importlib.util.find_spec("selenium")),
    reason="needs chromium, its chromedriver and selenium",
)
SECONDS = 60


@contextlib.contextmanager
def opened(url, downloads=None):
    """A driver that has opened a page, in a session of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BINARY
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"),
        *("--window-size=1280,1400", "--force-device-scale-factor=1"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    if downloads:
        folder = {"download.default_directory": str(downloads)}
        options.add_experimental_option("prefs", folder)
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get(url)
        yield driver
    finally:
        driver.quit()


def until(find):
    """What a function returns as soon as that is true."""
    from selenium.common.exceptions import WebDriverException

    ends = time.monotonic() + SECONDS
    while True:
        error = None
        try:
            if found := find():
                return found
        # The page may have just replaced what was looked for, or be writing
        # a picture.
        except (WebDriverException, AttributeError, OSError) as caught:
            error = caught
        if time.monotonic() > ends:
            raise AssertionError(f"it did not come about ({error})")
        time.sleep(0.05)


def element(driver, selector):
    return driver.find_element("css selector", selector)


def text(driver, selector):
    return element(driver, selector).text


def click_at(driver, selector, row, column, size):
    """Clicks the pixel of an image of a size, however it is shown."""
    from selenium.webdriver import ActionChains

    image = element(driver, selector)
    natural = driver.execute_script(
        "const it = arguments[0]; return [it.naturalHeight || it.height, "
        "it.naturalWidth || it.width]",
        image,
    )
    shown = image.rect["height"], image.rect["width"]
    # In the middle of its frame, and never larger than it is.
    scale = min(1, *np.divide(shown, natural))
    y, x = (
        round(((at + 0.5) / side - 0.5) * scale * pixels)
        for at, side, pixels in zip((row, column), size, natural, strict=True)
    )
    ActionChains(driver).move_to_element_with_offset(
        image, x, y
    ).click().perform()


def picture(driver, selector):
    """The pixels that a picture of the page shows."""

    def read():
        source = element(driver, f"{selector} img").get_attribute("src")
        content = httpx.get(source, timeout=SECONDS).content
        return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))]

    return until(read)[0]


def upload(driver, button, path):
    """Gives a file to the button of a name, as a file dialog does."""
    selector = f"input[data-testid='{button}-upload-button']"
    until(lambda: element(driver, selector)).send_keys(str(path))


def choose(driver, selector, name):
    """Chooses from a list by its name."""
    field = element(driver, f"{selector} input")
    field.click()
    options = until(
        lambda: driver.find_elements("css selector", "ul[role=listbox] li")
    )
    next(o for o in options if o.text.strip().endswith(name)).click()


def tab(driver, name):
    button = f"//button[@role='tab'][normalize-space()='{name}']"
    driver.find_element("xpath", button).click()


def requested(driver):
    """The addresses of all that the page has asked for."""
    found = (
        re.search(r'"Network.requestWillBeSent".*?"url":"(http[^"]*)"', entry)
        for entry in (log["message"] for log in driver.get_log("performance"))
    )
    return {match[1] for match in found if match}
