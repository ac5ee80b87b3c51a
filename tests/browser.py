"""A headless Chromium for the tests: pages that must load nothing else and say nothing wrong."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
WAIT_S = 20.0


@dataclass
class Seen:
    """What a page asked for and complained about."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def page() -> Iterator[tuple[Any, Seen]]:
    """An empty page (playwright's Page) and what will be seen of it.

    Skips the test where playwright or Chromium is missing.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = CHROMIUM if Path(CHROMIUM).exists() else shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            opened = chromium.new_page(viewport={"width": 1400, "height": 1000})
            opened.set_default_timeout(WAIT_S * 1000)
            yield opened, _watched(opened)
        finally:
            chromium.close()


def _watched(opened: Any) -> Seen:
    seen = Seen()

    def on_console(message: Any) -> None:
        if message.type in ("error", "warning"):
            seen.errors.append(f"{message.type}: {message.text}")

    opened.on("console", on_console)
    opened.on("pageerror", lambda error: seen.errors.append(str(error)))
    opened.on("request", lambda request: seen.requests.append(request.url))
    return seen
