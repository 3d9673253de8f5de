"""A headless Chromium, where one is installed, and what must hold of every page that it has rendered."""

import shutil
from contextlib import contextmanager

import pytest


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WIDTHS = (390, 1300)

# Texts below the contrast of 4.5 that WCAG 2 asks for. Controls that are switched off are not held to it.
FAINT_TEXTS = """() => {
  const parse = text => {
    const found = (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const scale = text.startsWith("color(srgb") ? 255 : 1;
    return [...found.slice(0, 3).map(part => part * scale), found.length > 3 ? found[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const ground = element => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.unshift(parse(getComputedStyle(one).backgroundColor));
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const luminance = colour => {
    const linear = colour.slice(0, 3).map(part => part / 255).map(
      part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const faint = [];
  const check = (element, style, text) => {
    const inSvg = element instanceof SVGElement, below = ground(element);
    const ink = over(parse(inSvg ? style.fill : style.color), below), found = contrast(ink, below);
    if (found < 4.5) faint.push(`${text.trim().slice(0, 40)}: ${found.toFixed(2)} (${ink} on ${below})`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent;
    if (!text.trim() || ["SCRIPT", "STYLE", "TITLE"].includes(element.tagName)) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (element.closest(":disabled")) continue;
    check(element, getComputedStyle(element), text);
  }
  for (const element of document.querySelectorAll("[placeholder]")) {
    if (!element.checkVisibility()) continue;
    check(element, getComputedStyle(element), element.value || element.placeholder);
    check(element, getComputedStyle(element, "::placeholder"), element.placeholder);
  }
  return faint;
}"""

# Controls without a name that a screen reader could say, and pictures without one.
NAMELESS = """() => {
  const labelled = element => (element.getAttribute("aria-labelledby") || "").split(" ")
    .some(id => id && document.getElementById(id)?.textContent.trim());
  const named = element => element.getAttribute("aria-label")?.trim() || labelled(element)
    || [...(element.labels || [])].some(label => label.textContent.trim()) || element.title || element.alt
    || (element.tagName === "BUTTON" && element.textContent.trim());
  return [...document.querySelectorAll("input, select, textarea, button, img, [role=img]")]
    .filter(element => element.checkVisibility() && element.type !== "hidden" && !named(element))
    .map(element => element.outerHTML.slice(0, 200));
}"""

# Elements that stick out to the right, and do not stand in a box that scrolls by itself.
WIDER_THAN_THE_PAGE = """() => {
  const root = document.documentElement;
  return root.scrollWidth > root.clientWidth ? [`${root.scrollWidth} > ${root.clientWidth}`] : [];
}"""


# Tables of figures that are wider than the box they stand in. A matrix may be: both of its sides are names.
SCROLLED_TABLES = """() => [...document.querySelectorAll(".scroll:has(> table.figures)")]
  .filter(box => box.scrollWidth > box.clientWidth)
  .map(box => `${box.getAttribute("aria-label")}: ${box.scrollWidth} > ${box.clientWidth}`)"""


@contextmanager
def open_page(**options):
    """An empty page of a new browser. The test is skipped where there is none, or nothing that drives it."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser.new_page(**options)
        finally:
            browser.close()


def check_readable(page):
    """At both widths: nothing scrolls sideways, every text has its contrast, and every control and picture a name."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)  # until the layout has settled
        for rule in (WIDER_THAN_THE_PAGE, FAINT_TEXTS, NAMELESS):
            assert page.evaluate(rule) == [], width
