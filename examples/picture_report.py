"""Draw docs/images/demo.png: the first two pairs in the report of `safevlm demo`, each with its two questions.

python examples/picture_report.py --report report.html

It needs Chromium, and playwright to drive it: `make test-app` installs that into .venv-app.
"""

import argparse
import shutil
from pathlib import Path


WIDTH = 1024  # of the report's column
SCALE = 1300 / WIDTH
PICTURE = Path("docs/images/demo.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default="report.html")
    args = parser.parse_args()
    from PIL import Image
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900}, device_scale_factor=SCALE)
        page.goto(args.report.resolve().as_uri() + "#one-picture-two-questions")  # which unfolds them
        row = page.locator("#one-picture-two-questions .cards")
        row.evaluate("row => [...row.children].slice(2).forEach(card => card.remove())")
        row.screenshot(path=PICTURE)
    with Image.open(PICTURE) as picture:
        picture.quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
