"""A real browser without a window, driven over WebDriver, that remembers what its console complained of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

SECONDS = 60.0

_ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--lang=en-US",
    # Throw-away certificates. Nothing but loopback can be reached.
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
_EXPECTED = ("Failed to load resource: the server responded with a status of ", "[DOM]")

T = TypeVar("T")


class Browser:
    """One browser.

    Attributes:
        driver: of WebDriver.
        downloads: where files go.
    """

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads

    def start_anew(self) -> None:
        """Forget what a former test did: cookies, console, size, files."""
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
        self.look(1100, 850)
        self.scripts(on=True)
        self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        for path in self.downloads.iterdir():
            path.unlink()

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Have another screen."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    def scripts(self, *, on: bool) -> None:
        """Switch JavaScript of pages on or off."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not on})

    def complaints(self) -> list[str]:
        """What the console has that should not be there: violations of the policy, errors of scripts."""
        entries: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        texts = [str(entry["message"]) for entry in entries]
        return [text for text in texts if not any(word in text for word in _EXPECTED)]

    def find(self, selector: str) -> WebElement:
        """The first element, when it is there."""
        return self.wait(lambda: next(iter(self.all(selector)), None))

    def all(self, selector: str) -> list[WebElement]:
        """All elements that are there now."""
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def texts(self, selector: str) -> list[str]:
        """What is written in them."""
        return [element.text for element in self.all(selector)]

    def wait(self, condition: Callable[[], T | None]) -> T:
        """What a condition gives once it is no longer None, False or empty."""
        # An element is gone when its page gives way to the next: look again.
        waiting = WebDriverWait(self.driver, SECONDS, ignored_exceptions=[StaleElementReferenceException])
        found: T = waiting.until(lambda _: condition())  # type: ignore[assignment]
        return found

    def run(self, script: str, *arguments: object) -> Any:
        """What a script of the test returns."""
        return self.driver.execute_script(script, *arguments)

    def download(self) -> Path:
        """The file that a download has brought, when it is complete."""

        def complete() -> Path | None:
            found = list(self.downloads.iterdir())
            # Under way it has a name that begins with a dot, or ends with what stands for that.
            whole = len(found) == 1 and not found[0].name.startswith(".") and found[0].suffix != ".crdownload"
            return found[0] if whole else None

        return self.wait(complete)


@contextmanager
def running_browser(directory: Path) -> Iterator[Browser]:
    """A browser; skips the test where there is none."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromium-driver are not installed")
    downloads, home = directory / "downloads", directory / "home"
    downloads.mkdir()
    home.mkdir()
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in (*_ARGUMENTS, f"--user-data-dir={home / 'profile'}"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "TZ": "Europe/Berlin",
        "LC_ALL": "C.UTF-8",
    }
    service = Service(str(programs[1]), env=environment)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(SECONDS)
        driver.set_script_timeout(SECONDS)
        yield Browser(driver, downloads)
    finally:
        driver.quit()
