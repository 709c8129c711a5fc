"""page.html in a real browser against the real server, whose tiny model makes every kind of bytes."""

import httpx
import pytest

pytestmark = pytest.mark.ci
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("starlette", reason="needs the extra serve")

from playwright.sync_api import Page, expect  # noqa: E402  # after the checks that it is there

from tests.serving.server import running_server  # noqa: E402


@pytest.fixture(scope="module")
def server():
    with running_server() as running:
        yield running


@pytest.fixture
def page(new_page, server):
    page = new_page(viewport={"width": 1280, "height": 800})
    page.goto(server.url)
    expect(page).to_have_title("tiny · lmfast")
    return page


def change(page: Page, **settings: object) -> None:
    page.click("#settings-button")
    for name, value in settings.items():
        page.fill(f"#{name}", str(value))
    page.click("#close-settings")


def ask(page: Page, text: str) -> None:
    page.fill("#question", text)
    page.press("#question", "Enter")
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")


def api(server, path: str, **body: object) -> dict:
    sampling = {"temperature": 0.8, "top_p": 0.95}
    return httpx.post(f"{server.url}/v1/{path}", json=sampling | body, timeout=60).json()


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_those_of_the_api(page, server, seed):
    change(page, seed=seed, max_tokens=60, system="the cat")
    ask(page, "the dog ran")
    system, user = {"role": "system", "content": "the cat"}, {"role": "user", "content": "the dog ran"}
    answer = api(server, "chat/completions", messages=[system, user], seed=seed, max_tokens=60)
    expected = answer["choices"][0]["message"]["content"]
    shown = page.locator(".message.assistant .text")
    assert shown.evaluate("element => element.textContent") == expected
    count = answer["usage"]["completion_tokens"]
    expect(page.locator(".stats")).to_contain_text("1 token ·" if count == 1 else f"{count} tokens ·")


@pytest.mark.parametrize("seed", range(5))
def test_completions_are_those_of_the_api(page, server, seed):
    page.click("#completion-tab")
    change(page, seed=seed, max_tokens=60)
    page.fill("#prompt", "the cat sat ")
    page.press("#prompt", "Control+Enter")
    expect(page.locator("#stats")).to_contain_text("prompt ")
    answer = api(server, "completions", prompt="the cat sat ", seed=seed, max_tokens=60)
    tokens = page.get_by_role("option")
    expect(tokens).to_have_count(answer["usage"]["completion_tokens"])
    page.get_by_role("button", name="Use as prompt").click()
    # A text area changes line ends.
    expected = "the cat sat " + answer["choices"][0]["text"]
    expected = expected.replace("\r\n", "\n").replace("\r", "\n")
    assert page.locator("#prompt").evaluate("element => element.value") == expected


def test_an_alternative_continues_the_text(page, server):
    page.click("#completion-tab")
    change(page, temperature=0, max_tokens=20)
    page.fill("#prompt", "the cat sat ")
    page.press("#prompt", "Control+Enter")
    expect(page.locator("#stats")).to_contain_text("prompt ")
    page.get_by_role("option").first.click()
    choice = page.locator(".alternative:enabled").nth(1)
    name = choice.locator(".name").inner_text().replace("·", " ")
    choice.click()
    expect(page.locator("#stats")).to_contain_text("prompt ")
    shown = page.locator("#tokens").evaluate("element => element.textContent")
    answer = api(server, "completions", prompt=f"the cat sat {name}", temperature=0, max_tokens=20)
    assert shown == name + answer["choices"][0]["text"]


def test_a_full_context_drops_messages(page):
    change(page, max_tokens=40)
    for _ in range(3):
        ask(page, "the cat sat on a mat. " * 8)
    expect(page.locator(".note", has_text="The context is full: the first")).not_to_have_count(0)
    expect(page.locator(".problem")).to_have_count(0)
    ask(page, "the cat sat on a mat. " * 60)
    expect(page.locator(".problem")).to_contain_text("does not fit into the model's context of 200 tokens")


def test_a_key(new_page):
    with running_server(api_key="secret") as server:
        page = new_page()
        page.goto(server.url)
        page.get_by_role("button", name="Enter API key").click()
        page.keyboard.type("secret")
        page.keyboard.press("Enter")
        expect(page).to_have_title("tiny · lmfast")
        page.fill("#max_tokens", "5")
        ask(page, "the cat")
        expect(page.locator(".message.assistant .stats")).to_contain_text("token")
