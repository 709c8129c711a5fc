"""page.html in a real browser, as the real server serves it: headers, answers, probabilities."""

import pytest

pytestmark = pytest.mark.ci
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("starlette", reason="needs the extra serve")

from playwright.sync_api import expect  # noqa: E402  # after the checks that it is there

from lmfast.inference.decode import continue_prompts  # noqa: E402
from lmfast.inference.sampling import Sampling  # noqa: E402
from tests.serving.server import CONTEXT, model, running_server, tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def server():
    with running_server(hosts={"127.0.0.1"}) as running:
        yield running


def test_a_chat_and_a_second_turn(new_page, server):
    page = new_page()
    page.goto(server.url)
    expect(page.locator("#model")).to_have_text("tiny")
    for turn, message in enumerate(("the cat ", "a dog "), 1):
        page.fill("#question", message)
        page.press("#question", "Enter")
        expect(page.locator("#log")).to_contain_text(message.strip())
        expect(page.locator("#log").get_by_text("first token after")).to_have_count(turn)
    server.settle()


def test_the_probabilities_of_a_completion(new_page, server):
    page = new_page()
    page.goto(server.url)
    page.get_by_role("tab", name="Completion").click()
    page.get_by_role("button", name="Settings").click()
    page.fill("#max_tokens", "12")
    page.locator("#temperature").fill("0")
    page.keyboard.press("Escape")
    page.fill("#prompt", "the cat sat on ")
    page.press("#prompt", "Control+Enter")
    expect(page.locator("#stats")).to_contain_text("tokens/s")
    ids = continue_prompts(model(), [tokenizer().encode("the cat sat on ")], 12, Sampling(0.0))[0]
    assert page.locator("#tokens > [role=option]").count() == len(ids) <= CONTEXT
    page.locator("#tokens > [role=option]").first.click()
    expect(page.locator("#alternatives")).to_be_visible()
    expect(page.locator("#alternatives")).to_contain_text("%")
