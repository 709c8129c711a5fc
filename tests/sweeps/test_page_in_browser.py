"""The page of a sweep in a real browser: nothing is loaded or wider than the window, and its buttons work offline."""

import pytest

from lmfast.sweeps.page import write_page
from tests.sweeps.synthetic import ablation, learning_rate_sweep

pytestmark = pytest.mark.ci


@pytest.fixture
def open_page(browser, tmp_path):
    """Writes the page of a sweep and opens it; fails if the page requests anything or reports an error."""
    opened, wrong = [], []

    def open_sweep(make, width=1280):
        folder = tmp_path / f"{make.__name__}-{width}"
        write_page(make(folder), folder / "report.html")
        page = browser.new_page(viewport={"width": width, "height": 800})
        opened.append(page)
        page.on(
            "request",
            lambda request: wrong.append(request.url) if not request.is_navigation_request() else None,
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((folder / "report.html").as_uri())
        return page

    yield open_sweep
    for page in opened:
        page.close()
    assert not wrong


@pytest.mark.parametrize("width", [360, 1280])
def test_only_tables_and_code_scroll_sideways(open_page, width):
    for make in (learning_rate_sweep, ablation):
        page = open_page(make, width)
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_settings_are_copied(open_page):
    page = open_page(learning_rate_sweep)
    button = page.locator(".copied button").first
    button.click()
    assert button.inner_text() == "Copied"
    page.evaluate("document.body.append(document.createElement('textarea'))")
    page.focus("textarea")
    page.keyboard.press("Control+V")
    assert page.input_value("textarea").endswith("learning_rate: 0.003\nbatch_size: 32")


def test_a_legend_entry_highlights_its_curves(open_page):
    page = open_page(learning_rate_sweep)
    opacity = "name => getComputedStyle(document.querySelector(`.curves g.${name}`)).opacity"
    entry = page.locator(".chip").nth(3)
    entry.press("Enter")
    assert entry.get_attribute("aria-pressed") == "true"
    assert page.evaluate(opacity, "g3") == "1" and float(page.evaluate(opacity, "g4")) < 0.2
    entry.press("Enter")
    assert page.evaluate(opacity, "g4") == "1"


def test_the_page_follows_the_rules_of_axe(open_page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for make in (learning_rate_sweep, ablation):
        found = axe.Axe().run(open_page(make)).response["violations"]
        assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found]
