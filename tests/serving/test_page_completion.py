"""page.html's completion tab in a real browser: tokens with their probabilities, and continuing with alternatives."""

import re
import threading
from math import log

import pytest

pytestmark = pytest.mark.ci
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("starlette", reason="needs the extra serve")

from playwright.sync_api import Page, expect  # noqa: E402  # after the checks that it is there

from tests.serving.stub_api import DONE, completion_answer, completion_chunk, error, usage  # noqa: E402

THERE = (" there", log(0.96), {" there": log(0.96), " in": log(0.02)})
WAS = (" was", log(0.6), {" was": log(0.6), " lived": log(0.3), "\n": log(0.05)})
A = (" a", log(0.25), {" the": log(0.5), " a": log(0.25)})
CAT = (" cat", log(0.08), {" dog": log(0.5)})
NEW_LINE = ("\n", log(0.01), {"<|endoftext|>": log(0.9)})


@pytest.fixture
def page(page) -> Page:
    page.get_by_role("tab", name="Completion").click()
    return page


def generate(page: Page, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.press("#prompt", "Control+Enter")


def wait_until_done(page: Page) -> None:
    expect(page.locator("#generate")).to_be_visible()
    expect(page.locator("#stats")).not_to_have_text("Generating…")


def text(page: Page) -> str:
    return page.locator("#text").evaluate(
        "element => element.children[0].textContent + element.children[1].textContent"
    )


def test_tokens_stream_in_with_their_probabilities(page, stub):
    gate = threading.Event()
    stub.completion = completion_answer(THERE, WAS, gate, A, CAT, NEW_LINE)
    generate(page, "Once")
    tokens = page.get_by_role("option")
    expect(tokens).to_have_count(2)
    expect(page.locator("#halt")).to_be_visible()
    gate.set()
    wait_until_done(page)
    assert text(page) == "Once there was a cat\n"
    levels = tokens.evaluate_all("all => all.map((element) => element.dataset.level)")
    assert levels == ["0", "1", "2", "3", "4"]
    names = tokens.evaluate_all("all => all.map((element) => element.getAttribute('aria-label'))")
    assert names == ["there, 96 %", "was, 60 %", "a, 25 %", "cat, 8.0 %", "new line, 1.0 %"]
    backgrounds = tokens.evaluate_all(
        "all => all.map((element) => getComputedStyle(element).backgroundColor)"
    )
    assert len(set(backgrounds)) == 5
    expect(page.locator("#legend li")).to_have_count(5)
    perplexity = (0.96 * 0.6 * 0.25 * 0.08 * 0.01) ** (-1 / 5)
    expect(page.locator("#stats")).to_have_text(
        re.compile(
            rf"^5 tokens · .* tokens/s · .* · perplexity {perplexity:.3g}\. Ended at the maximum number"
        )
    )
    assert stub.requests == [
        {
            "prompt": "Once",
            "logprobs": 5,
            "temperature": 0.8,
            "top_p": 0.95,
            "max_tokens": 128,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_an_alternative_continues_from_there(page, stub):
    stub.completion = completion_answer(THERE, WAS, A, CAT)
    generate(page, "Once")
    wait_until_done(page)
    page.get_by_role("option", name="was, 60 %").click()
    panel = page.get_by_role("group", name="Alternatives")
    expect(panel).to_contain_text("Token 2 of 4: 60 %")
    expect(panel.get_by_role("button")).to_have_count(3)
    expect(panel.get_by_role("button", name="was, 60 %, chosen")).to_have_attribute("aria-current", "true")
    stub.completion = completion_answer((" two", log(0.5), {}))
    panel.get_by_role("button", name="lived, 30 %").click()
    expect(panel).to_be_hidden()
    wait_until_done(page)
    assert text(page) == "Once there lived two"
    assert stub.requests[1]["prompt"] == "Once there lived"
    # The alternatives of a replaced token stay, so that the choice can be taken back.
    page.get_by_role("option", name="lived, 30 %, picked").click()
    panel.get_by_role("button", name="was, 60 %").click()
    wait_until_done(page)
    assert stub.requests[2]["prompt"] == "Once there was"


def test_a_token_outside_the_alternatives_is_listed_too(page, stub):
    stub.completion = completion_answer(CAT)
    generate(page, "A")
    wait_until_done(page)
    page.get_by_role("option").click()
    buttons = page.get_by_role("group", name="Alternatives").get_by_role("button")
    expect(buttons).to_have_text(["·dog50 %", "·cat8.0 %"])


def test_tokens_by_keyboard(page, stub):
    stub.completion = completion_answer(THERE, WAS, A)
    generate(page, "Once")
    wait_until_done(page)
    tokens = page.get_by_role("option")
    panel = page.get_by_role("group", name="Alternatives")
    page.focus("#generate")
    page.keyboard.press("Tab")  # one stop for all tokens
    expect(tokens.first).to_be_focused()
    expect(panel).to_contain_text("Token 1 of 3")
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(tokens.nth(1)).to_have_attribute("aria-selected", "true")
    expect(panel).to_contain_text("Token 2 of 3")
    page.keyboard.press("End")
    expect(tokens.last).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(panel.get_by_role("button").first).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(panel.get_by_role("button").last).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(tokens.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    wait_until_done(page)
    assert stub.requests[1]["prompt"] == "Once there lived"
    expect(tokens.nth(1)).to_be_focused()
    assert tokens.evaluate_all("all => all.filter((element) => element.tabIndex === 0).length") == 1


def test_tokens_that_are_parts_of_characters(page, stub):
    first = ("bytes:\\xf0\\x9f", log(0.5), {"bytes:\\xf0\\x9f": log(0.5), "!": log(0.2)})
    second = (
        "bytes:\\x90\\x89",
        log(0.5),
        {"bytes:\\x90": log(0.4), "bytes:\\x92\\x80": log(0.3), "!": log(0.1)},
    )
    stub.completion = completion_answer(first, second, ("é", log(0.5), {}))
    generate(page, "A ")
    wait_until_done(page)
    assert text(page) == "A 🐉é"
    tokens = page.get_by_role("option")
    expect(tokens).to_have_text(["", "🐉", "é"])
    expect(tokens.first).to_have_attribute("data-mark", "f0 9f")
    tokens.nth(1).click()
    panel = page.get_by_role("group", name="Alternatives")
    expect(panel.get_by_role("button", name="bytes 90, 40 %")).to_be_disabled()
    expect(panel.get_by_role("button", name="!, 10 %")).to_be_disabled()
    panel.get_by_role("button", name="bytes 92 80, 30 %").click()
    wait_until_done(page)
    assert stub.requests[1]["prompt"] == "A 💀"


def test_an_end_token_ends_the_text(page, stub):
    stub.completion = completion_answer(THERE, NEW_LINE, WAS)
    generate(page, "Once")
    wait_until_done(page)
    page.get_by_role("option").nth(1).click()
    page.get_by_role("button", name="<|endoftext|>, 90 %").click()
    assert text(page) == "Once there"
    expect(page.locator("#stats")).to_contain_text("Ended with <|endoftext|>")
    assert len(stub.requests) == 1


def test_stop_and_continue(page, stub):
    gate = threading.Event()
    stub.completion = completion_answer(THERE, gate, WAS)
    generate(page, "Once")
    expect(page.get_by_role("option")).to_have_count(1)
    expect(page.get_by_role("button", name="Continue")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.locator("#stats")).to_contain_text("Stopped")
    gate.set()
    stub.completion = completion_answer(A)
    page.get_by_role("button", name="Continue").click()
    wait_until_done(page)
    assert text(page) == "Once there a"
    assert stub.requests[1]["prompt"] == "Once there"
    page.get_by_role("button", name="Use as prompt").click()
    expect(page.locator("#prompt")).to_have_value("Once there a")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("Once there a")


def test_an_alternative_can_be_chosen_while_text_arrives(page, stub):
    gate = threading.Event()
    stub.completion = completion_answer(THERE, WAS, gate, A)
    generate(page, "Once")
    expect(page.get_by_role("option")).to_have_count(2)
    page.get_by_role("option").nth(1).click()
    second = threading.Event()
    stub.completion = completion_answer(CAT, second)
    page.get_by_role("button", name="lived, 30 %").click()
    expect(page.get_by_role("option")).to_have_count(3)
    expect(page.locator("#halt")).to_be_visible()  # the end of the first answer does not count
    gate.set()
    second.set()
    wait_until_done(page)
    assert text(page) == "Once there lived cat"
    expect(page.locator("#failure")).to_be_empty()


def test_the_automatic_limit_is_lowered_until_it_fits(page, stub):
    def answer(body):
        return completion_answer(A) if body["max_tokens"] <= 20 else error(400, "context_length_exceeded")

    stub.completion = answer
    generate(page, "Once")
    wait_until_done(page)
    assert text(page) == "Once a"
    assert [body["max_tokens"] for body in stub.requests] == [128, 64, 32, 16]
    page.click("#settings-button")
    page.fill("#max_tokens", "50")
    generate(page, "Once")
    expect(page.locator("#failure")).to_have_text(re.compile("does not fit into .* lower max tokens"))
    assert len(stub.requests) == 5


def test_the_automatic_limit_is_what_the_context_leaves(page, stub):
    stub.completion = completion_answer(THERE, WAS, prompt=200)
    generate(page, "Once")
    wait_until_done(page)
    page.get_by_role("button", name="Continue").click()
    wait_until_done(page)
    page.get_by_role("option").first.click()
    page.get_by_role("button", name="in, 2.0 %").click()
    wait_until_done(page)
    assert [body["max_tokens"] for body in stub.requests] == [128, 54, 55]


def test_an_error_after_some_tokens_keeps_them(page, stub):
    stub.completion = [completion_chunk([THERE])]
    generate(page, "Once")
    expect(page.locator("#failure")).to_contain_text("The connection ended before the answer was complete.")
    assert text(page) == "Once there"
    stub.completion = [completion_chunk([WAS, A], "stop"), usage(3, 2), DONE]
    page.get_by_role("button", name="Retry").click()
    wait_until_done(page)
    assert text(page) == "Once there was a"
    expect(page.locator("#failure")).to_be_empty()


def test_an_example_generates(page, stub):
    page.get_by_role("button", name="Once upon a time").click()
    wait_until_done(page)
    assert stub.requests[0]["prompt"] == "Once upon a time"
    expect(page.locator("#prompts")).to_be_hidden()


def test_tokens_never_become_html(page, stub):
    markup = "<img src=x onerror=alert(1)>"
    stub.completion = completion_answer((markup, log(0.5), {markup: log(0.5), markup + "!": log(0.2)}))
    generate(page, markup)
    wait_until_done(page)
    assert text(page) == markup + markup
    page.get_by_role("option").click()
    expect(page.locator(".alternative .name").last).to_have_text(markup.replace(" ", "·") + "!")
    assert page.locator("img").count() == 0
