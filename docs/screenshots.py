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
    """The first response of the second stage's step 11 in which tokens are accelerated and locked by turns."""
    page.locator("#filters [name=stage]").select_option("2")
    page.locator("#filters [name=step]").select_option("11")
    while not all(page.locator(f".tokens .t.{kind}.s3").count() for kind in ("accelerated", "locked")):
        page.locator("#next").click()
    page.locator(".tokens .t.locked").first.focus()


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
                page.locator("#tokens").evaluate("section => section.style.padding = '0 1rem 1rem'")
                show_tokens(page)
                page.locator("#tokens").screenshot(path=IMAGES / f"{name}.png")
            else:
                page.screenshot(path=IMAGES / f"{name}.png")
            page.close()

        picture("report-light", 1120, 1240, "light")
        picture("report-dark", 1120, 1240, "dark")
        picture("report-narrow", 390, 844, "light")
        picture("report-tokens", 1120, 900, "light", tokens=True)
        browser.close()


if __name__ == "__main__":
    main()
