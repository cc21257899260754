"""The pictures of the report in README and docs: of the demo's run, in Chromium.

make demo && make screenshots
"""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from owpo.report.page import write_report
from owpo.report.record import read_run

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
RUN = ROOT / "runs" / "demo"


def show_tokens(page: Page) -> None:
    """A trained response of the second stage, early on: its reference is ahead and behind by turns."""
    page.locator("#filters [name=stage]").select_option("2")
    page.locator("#filters [name=step]").select_option("11")
    page.locator("#tokens").scroll_into_view_if_needed()
    page.locator(".tokens .t.accelerated.s3").first.hover()


def main() -> None:
    report = RUN / "report.html"
    write_report([read_run(RUN)], report)
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )

        def picture(name: str, width: int, height: int, scheme: str, tokens: bool = False) -> None:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(report.as_uri())
            if tokens:
                show_tokens(page)
                page.locator("#tokens").screenshot(path=IMAGES / f"{name}.png")
            else:
                page.screenshot(path=IMAGES / f"{name}.png")
            page.close()

        picture("report-light", 1120, 900, "light")
        picture("report-dark", 1120, 900, "dark")
        picture("report-narrow", 390, 844, "light")
        picture("report-tokens", 1120, 900, "light", tokens=True)
        browser.close()


if __name__ == "__main__":
    main()
