"""The browser that pages are looked at in."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """Gives a running Chromium without a window."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [path for name in names if (path := shutil.which(name))]
    assert found, f"expected one of {', '.join(names)} on the PATH, found none; install Chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found[0], args=["--no-sandbox", *arguments]
        )
        yield started
        started.close()
