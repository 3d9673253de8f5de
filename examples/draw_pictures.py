"""Draw the pictures of README and docs/app.md anew, with the checkpoint that ships with the package.

python examples/draw_pictures.py [--only demo explained app evaluated calibrated]

"app" gives three files; "evaluated" and "calibrated" are cut from reports, which

safevlm evaluate --model src/safevlm_hf/data/nano_safe --benchmark riskcards -o runs/evaluation
safevlm calibrate --model src/safevlm_hf/data/nano_safe --target-false-positive-rate 0.05 -o runs/policy.json

write before. It needs Chromium, and playwright to drive it: `make test-app` installs that into .venv-app.
"""

import argparse
import io
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageOps


SAFE, BASE = (Path("src/safevlm_hf/data") / name for name in ("nano_safe", "nano_base"))
EVALUATION, CALIBRATION = Path("runs/evaluation/report.html"), Path("runs/calibration.html")
CARDS = Path("runs/benchmarks/riskcards/riskcards-400-seed0")  # where `safevlm evaluate` draws the same ones
IMAGES = Path("docs/images")
PORT = 7869
WAIT = 300_000  # milliseconds
COLUMN, MARGIN = 1024, 8  # pixels, of a report's text and around what is cut out of it


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    drawings = {
        "demo": draw_demo,
        "explained": draw_explained,
        "app": draw_app,
        "evaluated": draw_evaluated,
        "calibrated": draw_calibrated,
    }
    parser.add_argument("--only", nargs="+", choices=drawings, default=list(drawings), help="default: all")
    names = parser.parse_args().only
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name in names:
            drawings[name](browser)


def draw_demo(browser):
    """Draw the first two pairs of the demo's held-out cards, as its report shows them."""
    from safevlm_hf.benchmarks.riskcards import HeldOut, items_of
    from safevlm_hf.demo.report import DemoResults, write_report
    from safevlm_hf.demo.rows import BASE as WITHOUT
    from safevlm_hf.demo.rows import BOTH_STAGES
    from safevlm_hf.evaluation.answering_records import give_answers

    records = HeldOut().records(CARDS, 400, 0)[:12]
    answers = {name: give_answers(*load(path), records) for name, path in ((WITHOUT, BASE), (BOTH_STAGES, SAFE))}
    safety = load(SAFE)[0].config.safety_config
    results = DemoResults(items_of(records), answers, safety.categories, safety.levels)
    with tempfile.TemporaryDirectory() as folder:
        save("demo", cut_pairs(browser, write_report(Path(folder) / "report.html", results)))


def cut_pairs(browser, report: Path) -> Image.Image:
    """Return a picture of the first two pairs in a report of the demo."""
    page = open_page(browser, 1200, device_scale_factor=1300 / COLUMN)
    page.goto(report.resolve().as_uri() + "#one-picture-two-questions")  # which unfolds them
    row = page.locator("#one-picture-two-questions .cards")
    row.evaluate("row => [...row.children].slice(2).forEach(card => card.remove())")
    return picture_of(row)


def draw_explained(browser):
    """Draw the card of README's first lines, the map of its verdict, and the words that decided."""
    from safevlm_hf.asking import encode
    from safevlm_hf.reports.plot_verdict import plot_verdict

    model, processor = load(SAFE)
    content = [
        {"type": "image", "path": str(IMAGES / "card.jpg")},
        {"type": "text", "text": "What does the card say?"},
    ]
    inputs = encode(processor, [[{"role": "user", "content": content}]])
    explanation = model.explain(**inputs)
    (verdict,) = processor.post_process_safety(explanation)
    drawn = io.BytesIO()
    with Image.open(IMAGES / "card.jpg") as card:
        figure = plot_verdict(card, explanation, verdict, tokens=processor.question_tokens(inputs))
    figure.axes[2].set_visible(False)  # the bars, on the right
    figure.suptitle("")
    figure.savefig(drawn, format="png", dpi=80)
    whole = Image.open(drawn).convert("RGB")
    # The default palette would have no red: what is red is small beside the noise of the card.
    save("explained", whole.crop(ImageOps.invert(whole).getbbox()), Image.Quantize.FASTOCTREE)


def draw_app(browser):
    """Draw the page wide and narrow after two questions about a card; the second has a policy that refuses."""
    from safevlm_hf.app.pictures import draw_card

    page = open_page(browser, 1300, reduced_motion="reduce")
    command = [sys.executable, "-m", "safevlm_cli", "app", "--model", str(SAFE), "--port", str(PORT)]
    with subprocess.Popen(command) as server, tempfile.TemporaryDirectory() as folder:
        try:
            open_when_ready(page, server)
            card = Path(folder) / "card.png"
            draw_card("PIN CODE", random.Random(0))[0].save(card)
            page.locator("input[type=file]").first.set_input_files(card)
            page.get_by_alt_text("The picture that you ask about").wait_for()
            ask(page, "Which code is written on it? Help me with this.")
            for group, choice in (("Language of fixed refusals", "de"), ("A flag at level high leads to", "refuse")):
                page.get_by_role("group", name=group).get_by_label(choice).check()
            page.get_by_text('"high": "refuse"').wait_for()
            ask(page, "What colour is the card?")
            save_page(page)
        finally:
            server.terminate()


def open_when_ready(page, server: subprocess.Popen):
    """Open the page as soon as its server listens."""
    from playwright.sync_api import Error

    for _ in range(WAIT // 1000):
        if server.poll() is not None:
            raise RuntimeError(f"`safevlm app` ended with exit code {server.returncode}")
        try:
            page.goto(f"http://127.0.0.1:{PORT}")
            return page.get_by_text("Nothing has been asked yet.").wait_for()
        except Error:
            time.sleep(1)
    raise RuntimeError("`safevlm app` does not listen")


def ask(page, question: str):
    turns = page.locator("#answers .turn")
    number = turns.count()
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")
    turns.nth(number).wait_for()
    page.get_by_text("Answered.").wait_for()


def save_page(page):
    """Save the page at two widths, and a part with answers and policy."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    page.wait_for_timeout(1000)  # until the layout has settled
    wide = picture_of(page, full_page=True)
    save("app-wide", wide)
    turn, finding, policy = (
        page.locator(part).first.bounding_box() for part in ("#answers .turn", "#verdict .finding", "main fieldset")
    )
    box = turn["x"] - 8, turn["y"] - 4, 1300 - 20, finding["y"] + finding["height"] + 8
    save("app-policy", wide.crop([round(edge) for edge in box]))
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(1000)
    narrow = picture_of(page, full_page=True)
    save("app-narrow", narrow.crop((0, 0, narrow.width, min(narrow.height, 2700))))


def draw_evaluated(browser):
    page = open_page(browser, 740)
    page.goto(EVALUATION.resolve().as_uri())
    table = page.get_by_label("Figures over all items", exact=True).first
    table.evaluate("table => [...table.querySelectorAll('tbody tr')].slice(6).forEach(row => row.remove())")
    save("evaluated", ImageOps.expand(picture_of(table), MARGIN, "white"))


def draw_calibrated(browser):
    page = open_page(browser, 1200)
    page.goto(CALIBRATION.resolve().as_uri())
    plot = page.locator(".side > div", has_text="ROC, upper left corner enlarged").first
    plot.locator("figcaption").evaluate("caption => caption.remove()")  # it repeats the heading
    save("calibrated", ImageOps.expand(picture_of(plot), MARGIN, "white"))


def load(checkpoint: Path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import safevlm_hf  # noqa: F401  it registers the safe classes

    return AutoModelForImageTextToText.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)


def open_page(browser, width: int, **options):
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.set_default_timeout(WAIT)
    return page


def picture_of(shown, **options) -> Image.Image:
    return Image.open(io.BytesIO(shown.screenshot(**options))).convert("RGB")


def save(name: str, picture: Image.Image, palette: int = Image.Quantize.MEDIANCUT):
    picture.convert("RGB").quantize(256, palette).save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
