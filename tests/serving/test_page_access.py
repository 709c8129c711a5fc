"""page.html in a real browser: keyboard, narrow windows, light and dark mode, and axe's rules for accessibility."""

import threading
from math import log

import pytest

pytestmark = pytest.mark.ci
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("starlette", reason="needs the extra serve")

from playwright.sync_api import Page, expect  # noqa: E402  # after the checks that it is there

from tests.serving.stub_api import chat_answer, completion_answer, error  # noqa: E402

NARROW = {"viewport": {"width": 360, "height": 700}}
TOKENS = [
    (f" word{level}", log(share), {f" word{level}": log(share), "\n": log(share / 2)})
    for level, share in enumerate([0.96, 0.6, 0.25, 0.08, 0.01])
] + [("\n", log(share), {}) for share in (0.96, 0.6, 0.25, 0.08, 0.01)]


def fill(page: Page, stub) -> None:
    """A conversation with everything in it, and a completion."""
    stub.chat = chat_answer("Look:\n```\n" + "long" * 60 + "\n```\n", finish="length", dropped_messages=2)
    for _ in range(2):
        page.fill("#question", "word" * 50)
        page.press("#question", "Enter")
        expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
    stub.chat = error(401, "invalid_api_key")
    page.fill("#question", "Hi")
    page.press("#question", "Enter")
    expect(page.locator(".message .problem")).to_be_visible()
    page.get_by_role("tab", name="Completion").click()
    stub.completion = completion_answer(*TOKENS, *TOKENS, ("long" * 60, log(0.5), {}))
    page.fill("#prompt", "Once upon a time" * 10)
    page.press("#prompt", "Control+Enter")
    expect(page.locator("#stats")).to_contain_text("perplexity")


def scrolls_sideways(page: Page) -> list[str]:
    """Elements that stick out of the window to the right, or whose text does not fit."""
    return page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((element) => element.checkVisibility() && !element.closest("symbol, .for-readers-only"))
            .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5
                || (getComputedStyle(element).overflowX === "visible" && element.clientWidth > 0
                    && element.scrollWidth > element.clientWidth + 1))
            .map((element) => element.outerHTML.slice(0, 80))"""
    )


def test_the_chat_by_keyboard_alone(page, stub):
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(page.locator("#question")).to_have_value("One\ntwo")
    assert not stub.requests
    gate = threading.Event()
    stub.chat = chat_answer("Once", gate)
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .text")).to_have_text("Once")
    page.keyboard.type("draft")
    page.keyboard.press("Enter")  # is not sent during an answer
    expect(page.locator("#question")).to_have_value("draft")
    page.keyboard.press("Escape")
    expect(page.locator(".stats")).to_contain_text("Stopped")
    expect(page.locator("#question")).to_be_focused()
    assert len(stub.requests) == 1 and stub.requests[0]["messages"][0]["content"] == "One\ntwo"


def test_focus_stays_on_the_button_that_sends_and_stops(page, stub):
    gate = threading.Event()
    stub.chat = chat_answer("Once", gate)
    page.fill("#question", "Hi")
    page.keyboard.press("Tab")
    expect(page.locator("#send")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#send")).to_be_focused()


def test_tabs_by_keyboard(page, stub):
    page.focus("#chat-tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#completion-tab")).to_be_focused()
    expect(page.locator("#completion-tab")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tabpanel", name="Completion")).to_be_visible()
    page.reload()
    expect(page.get_by_role("tabpanel", name="Completion")).to_be_visible()
    page.focus("#completion-tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="Chat")).to_be_visible()


def test_focus_is_always_visible(page, stub):
    """Every stop of the Tab key has an outline or, for the field that is part of a frame, a coloured frame."""
    fill(page, stub)
    for tab in ("Chat", "Completion"):
        page.get_by_role("tab", name=tab).click()
        page.click("#settings-button")
        page.focus("#skip")
        for _ in range(30):
            page.keyboard.press("Tab")
            shown = page.evaluate(
                """() => {
                    const element = document.activeElement;
                    const frame = element.matches("textarea") ? element.closest(".frame") : null;
                    return element === document.body || getComputedStyle(element).outlineStyle !== "none"
                        || (frame !== null && getComputedStyle(frame).boxShadow !== "none");
                }"""
            )
            assert shown, page.evaluate("document.activeElement.outerHTML")


def test_nothing_sticks_out_of_a_narrow_window(new_page, stub):
    page = new_page(**NARROW)
    stub.model["id"] = "a-model-with-a-very-long-name-that-does-not-fit-into-the-header"
    page.goto(stub.address)
    assert not scrolls_sideways(page)
    fill(page, stub)
    for token in (0, 4, 9, -1):
        page.get_by_role("option").nth(token).click()
        assert not scrolls_sideways(page)
    page.get_by_role("tab", name="Chat").click()
    assert not scrolls_sideways(page)
    page.click("#menu")
    assert not scrolls_sideways(page)


def test_columns_are_drawers_in_a_narrow_window(new_page, stub):
    page = new_page(**NARROW)
    page.goto(stub.address)
    expect(page.locator("#history")).to_be_hidden()
    page.click("#menu")
    expect(page.locator("#history")).to_be_visible()
    expect(page.locator("#menu")).to_have_attribute("aria-expanded", "true")
    expect(page.locator("#new")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#history")).to_be_hidden()
    expect(page.locator("#menu")).to_be_focused()
    page.click("#settings-button")
    page.fill("#seed", "3")
    page.click("#close-settings")
    expect(page.locator("#settings")).to_be_hidden()
    expect(page.locator("#settings-button")).to_be_focused()
    expect(page.locator("#settings-button")).to_have_attribute("aria-expanded", "false")


def test_a_deleted_conversation_can_be_restored_from_the_drawer(new_page, stub):
    page = new_page(**NARROW)
    page.goto(stub.address)
    for text in ("One", "Two"):
        page.fill("#question", text)
        page.press("#question", "Enter")
        expect(page.locator(".stats")).to_be_visible()
        page.click("#menu")
        page.click("#new")
    page.click("#menu")
    page.get_by_role("button", name="Delete “One”").click()
    page.get_by_role("button", name="Undo").click()  # above the drawer
    expect(page.locator(".message .text").first).to_have_text("One")


def test_escape_closes_a_drawer_without_stopping_the_answer(new_page, stub):
    page = new_page(**NARROW)
    page.goto(stub.address)
    gate = threading.Event()
    stub.chat = chat_answer("Once", gate, " upon.")
    page.fill("#question", "Hi")
    page.press("#question", "Enter")
    expect(page.locator(".message.assistant .text")).to_have_text("Once")
    page.click("#settings-button")
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    gate.set()
    expect(page.locator(".message.assistant .text")).to_have_text("Once upon.")


def background(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_light_and_dark_mode(new_page, stub):
    page = new_page(color_scheme="light")
    page.goto(stub.address)
    light = background(page)
    page.emulate_media(color_scheme="dark")
    dark = background(page)
    assert light != dark
    expect(page.locator("#theme")).to_have_attribute("aria-pressed", "true")
    page.emulate_media(color_scheme="light")
    page.click("#theme")
    assert background(page) == dark
    page.reload()
    assert background(page) == dark  # remembered
    page.click("#theme")
    assert background(page) == light
    page.emulate_media(color_scheme="dark")
    assert background(page) == dark  # follows the system again


def test_no_motion_if_the_reader_wants_none(new_page, stub):
    page = new_page(reduced_motion="reduce")
    page.goto(stub.address)
    gate = threading.Event()
    stub.chat = chat_answer("Once", gate)
    page.fill("#question", "Hi")
    page.press("#question", "Enter")
    text = page.locator(".streaming .text")
    expect(text).to_have_text("Once")
    assert text.evaluate("element => getComputedStyle(element, '::after').animationName") == "none"
    gate.set()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_no_violations(new_page, stub, mode, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = new_page(color_scheme=mode, viewport={"width": width, "height": 800})
    page.goto(stub.address)
    expect(page.locator("h1")).to_have_text("stories-17m")

    def check(state: str) -> None:
        response = axe.run(page).response
        found = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in response["violations"]]
        assert not found, state
        assert len(response["passes"]) > 15

    check("empty chat")
    page.get_by_role("tab", name="Completion").click()
    check("empty completion")
    page.get_by_role("tab", name="Chat").click()
    fill(page, stub)
    page.get_by_role("option").nth(2).click()
    check("completion with alternatives")
    page.get_by_role("tab", name="Chat").click()
    page.locator(".message.user").first.hover()
    check("chat with an error")
    page.click("#settings-button")
    page.fill("#seed", "-3")
    check("settings with an error")
