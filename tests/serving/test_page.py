"""page.html in a real browser, against a server with prescribed answers: the chat, its settings and its errors."""

import json
import re
import threading

import pytest

pytestmark = pytest.mark.ci
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("starlette", reason="needs the extra serve")

from playwright.sync_api import Page, expect  # noqa: E402  # after the checks that it is there

from tests.serving.stub_api import DONE, chat_answer, chat_chunk, error, event  # noqa: E402


def ask(page: Page, text: str) -> None:
    page.fill("#question", text)
    page.press("#question", "Enter")


def wait_until_answered(page: Page) -> None:
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")


def wait_until_disconnected(page: Page, stub) -> None:
    for _ in range(500):
        if stub.disconnects:
            break
        page.wait_for_timeout(20)
    assert stub.disconnects == 1


def messages(page: Page) -> list[str]:
    wait_until_answered(page)
    return page.locator(".message .text").all_inner_texts()


def test_an_answer_streams_in_with_its_numbers(page, stub):
    expect(page).to_have_title("stories-17m · lmfast")
    expect(page.locator("h1")).to_have_text("stories-17m")
    gate = threading.Event()
    stub.chat = chat_answer("Once", " upon", gate, " a time.", prompt=21, cached=12)
    ask(page, "Tell me a story")
    answer = page.locator(".message.assistant")
    expect(answer.locator(".text")).to_have_text("Once upon")
    expect(page.locator("#log")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#send")).to_be_hidden()
    gate.set()
    expect(answer.locator(".text")).to_have_text("Once upon a time.")
    expect(page.locator("#send")).to_be_visible()
    pattern = r"^3 tokens · [\d.]+ tokens/s · first token after \d+ ms · prompt 21 tokens \(12 cached\)$"
    expect(answer.locator(".stats")).to_have_text(re.compile(pattern))
    assert stub.requests == [
        {
            "messages": [{"role": "user", "content": "Tell me a story"}],
            "truncation": "auto",
            "temperature": 0.8,
            "top_p": 0.95,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_the_conversation_is_sent_and_survives_a_reload(page, stub):
    ask(page, "Hi\nyou")
    assert messages(page) == ["Hi\nyou", "Hello there."]
    stub.chat = chat_answer("Bye.")
    ask(page, "And now?")
    expected = ["Hi\nyou", "Hello there.", "And now?", "Bye."]
    assert messages(page) == expected
    assert [message["content"] for message in stub.requests[1]["messages"]] == expected[:3]
    assert [message["role"] for message in stub.requests[1]["messages"]] == ["user", "assistant", "user"]
    page.reload()
    assert messages(page) == expected
    expect(page.locator(".conversation .open")).to_have_text("Hi you")


def test_a_reload_keeps_what_had_arrived(page, stub):
    stub.chat = chat_answer("Once", " upon", threading.Event())
    ask(page, "Hi")
    expect(page.locator(".message.assistant .text")).to_have_text("Once upon")
    page.reload()
    assert messages(page) == ["Hi", "Once upon"]
    expect(page.locator(".stats")).to_contain_text("Stopped")
    expect(page.locator(".problem")).to_have_count(0)


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_keeps_what_has_arrived_and_ends_the_request(page, stub, how):
    stub.chat = chat_answer("Once", " upon", threading.Event(), " a time.")
    ask(page, "Hi")
    expect(page.locator(".message.assistant .text")).to_have_text("Once upon")
    page.click("#stop") if how == "button" else page.keyboard.press("Escape")
    expect(page.locator(".stats")).to_have_text(re.compile("^Stopped · "))
    assert messages(page) == ["Hi", "Once upon"]
    wait_until_disconnected(page, stub)


def test_regenerate_replaces_the_last_answer(page, stub):
    ask(page, "One")
    wait_until_answered(page)
    ask(page, "Two")
    wait_until_answered(page)
    stub.chat = chat_answer("Another.")
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(1)  # only the last answer's
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".message.assistant .text").last).to_have_text("Another.")
    assert messages(page) == ["One", "Hello there.", "Two", "Another."]
    assert stub.requests[2] == stub.requests[1]


def test_an_answer_that_cannot_be_regenerated_is_kept(page, stub):
    ask(page, "One")
    wait_until_answered(page)
    stub.chat = error(429, "queue_full")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".problem")).to_be_visible()
    assert messages(page) == ["One", "Hello there."]
    stub.chat = chat_answer("Another.")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".problem")).to_have_count(0)
    assert messages(page) == ["One", "Another."]


def test_copy(page, stub):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    stub.chat = chat_answer("a\n```\nb\n```\n")
    ask(page, "One")
    wait_until_answered(page)
    page.get_by_role("button", name="Copy", exact=True).click()
    assert page.evaluate("navigator.clipboard.readText()") == "a\n```\nb\n```\n"
    page.locator(".message.user").hover()
    page.get_by_role("button", name="Copy message").click()
    assert page.evaluate("navigator.clipboard.readText()") == "One"


def test_the_last_message_can_be_edited(page, stub):
    ask(page, "One")
    wait_until_answered(page)
    page.locator(".message.user").hover()
    page.get_by_role("button", name="Edit message").click()
    field = page.get_by_role("textbox", name="Edit message")
    expect(field).to_be_focused()
    field.press("Escape")
    assert messages(page) == ["One", "Hello there."]
    page.get_by_role("button", name="Edit message").click()
    stub.chat = chat_answer("Other.")
    field.fill("Two")
    field.press("Enter")
    expect(page.locator(".message.assistant .text")).to_have_text("Other.")
    assert messages(page) == ["Two", "Other."]
    assert stub.requests[1]["messages"] == [{"role": "user", "content": "Two"}]


def test_conversations_can_be_named_and_deleted(page, stub):
    long = "Tell me a story about a dragon who is afraid of the dark and of mice"
    ask(page, long)
    wait_until_answered(page)
    page.click("#new")
    expect(page.locator("#question")).to_be_focused()
    expect(page.locator("#empty")).to_be_visible()
    ask(page, "Second")
    wait_until_answered(page)
    titles = page.locator(".conversation .open")
    expect(titles).to_have_text(["Second", "Tell me a story about a dragon who is afraid of…"])

    page.get_by_role("button", name="Rename “Second”").click()
    page.get_by_role("textbox", name="Title").fill("Dogs")
    page.keyboard.press("Enter")
    expect(titles.first).to_have_text("Dogs")
    expect(titles.first).to_be_focused()
    ask(page, "Third")
    wait_until_answered(page)
    expect(titles.first).to_have_text("Dogs")

    titles.last.click()
    assert messages(page)[0] == long
    page.get_by_role("button", name="Delete “Tell me").click()
    expect(titles).to_have_text(["Dogs"])
    expect(page.locator("#empty")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(titles).to_have_text(["Dogs", "Tell me a story about a dragon who is afraid of…"])
    assert messages(page)[0] == long
    page.reload()
    expect(titles).to_have_count(2)


def test_conversations_of_another_tab_appear(page, stub):
    other = page.context.new_page()
    other.goto(stub.address)
    ask(other, "Hi")
    wait_until_answered(other)
    page.locator(".conversation .open").click()
    assert messages(page) == ["Hi", "Hello there."]
    ask(other, "And now?")
    expect(page.locator(".message")).to_have_count(4)
    other.get_by_role("button", name="Delete").click()
    expect(page.locator(".conversation")).to_have_count(0)
    assert len(messages(page)) == 4


def test_an_answer_continues_while_another_conversation_is_open(page, stub):
    gate = threading.Event()
    stub.chat = chat_answer("Once", gate, " upon.")
    ask(page, "First")
    expect(page.locator(".message.assistant .text")).to_have_text("Once")
    page.click("#new")
    expect(page.locator("#send")).to_be_visible()
    gate.set()
    stub.chat = chat_answer("Bye.")
    ask(page, "Second")
    assert messages(page) == ["Second", "Bye."]
    page.locator(".conversation .open").last.click()
    expect(page.locator(".message.assistant .text")).to_have_text("Once upon.")


def test_settings_reach_the_request_and_can_be_reset(page, stub):
    page.click("#settings-button")
    values = {"system": "Be kind.", "top_k": "40", "seed": "7", "max_tokens": "64", "api_key": "secret"}
    for name, value in values.items():
        page.fill(f"#{name}", value)
    for name, value in {"temperature": "0.5", "top_p": "0.9"}.items():
        page.locator(f"#{name}").fill(value)
    page.reload()
    ask(page, "Hi")
    wait_until_answered(page)
    sent = stub.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": "Be kind."}
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7, "max_tokens": 64}
    assert {name: sent[name] for name in wanted} == wanted
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")

    page.click("#settings-button")
    page.fill("#top_k", "0")
    expect(page.locator("#wrong")).to_contain_text("Top-k")
    page.reload()
    page.click("#settings-button")
    expect(page.locator("#top_k")).to_have_value("40")
    page.get_by_role("button", name="Reset to defaults").click()
    expect(page.locator("#top_k")).to_have_value("")
    expect(page.locator("#system")).to_have_value("")
    ask(page, "Hi")
    wait_until_answered(page)
    assert {"top_k", "seed", "max_tokens"}.isdisjoint(stub.requests[1]) and stub.requests[1][
        "temperature"
    ] == 0.8


ERRORS = [
    (error(429, "queue_full"), "The server's queue is full. Try again in 2 s."),
    (error(503, "shutting_down"), "The server is shutting down."),
    (error(504, "time_limit"), "The server's time limit passed before the answer was complete."),
    (error(400, "context_length_exceeded"), "The text does not fit into the model's context of 256 tokens. Shorten it."),
    (error(400, None, "seed is 3.5; it must be an integer"), "The server reports: seed is 3.5; it must be an integer"),
    ([500, "no object"], "The server answered with status 500."),
    ([chat_chunk("Once"), event(error(500, "internal_error", "internal error")[1])], "The server reports: internal error"),
    ([chat_chunk("Once")], "The connection ended before the answer was complete."),
    ([chat_chunk("Once"), b"data: {broken\n\n", DONE], "The connection ended before the answer was complete."),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "line"), ERRORS, ids=[line[-30:] for _, line in ERRORS])
def test_an_error_is_one_line_with_a_retry(page, stub, steps, line):
    stub.chat = steps
    ask(page, "Hi")
    problem = page.locator(".message .problem")
    expect(problem.locator("span")).to_have_text(line)
    page.reload()
    expect(problem.locator("span")).to_have_text(line)
    stub.chat = chat_answer("Hello.")
    problem.get_by_role("button", name="Retry").click()
    expect(page.locator(".message.assistant .text")).to_have_text("Hello.")
    expect(problem).to_have_count(0)
    assert messages(page) == ["Hi", "Hello."]


def test_an_error_within_a_stream_ends_the_request(page, stub):
    stub.chat = [chat_chunk("Once"), event(error(500, "internal_error")[1]), threading.Event()]
    ask(page, "Hi")
    expect(page.locator(".problem")).to_be_visible()
    wait_until_disconnected(page, stub)


def test_a_server_that_cannot_be_reached(page, stub):
    wait_until_answered(page)
    page.route("**/v1/**", lambda route: route.abort())
    ask(page, "Hi")
    problem = page.locator(".message .problem")
    expect(problem).to_contain_text("The server cannot be reached.")
    page.unroute("**/v1/**")
    problem.get_by_role("button", name="Retry").click()
    assert messages(page)[1:] == ["Hello there."]


def test_an_unanswered_message_is_not_sent_again(page, stub):
    stub.chat = error(429, "queue_full")
    ask(page, "First")
    expect(page.locator(".message .problem")).to_be_visible()
    stub.chat = chat_answer("Hello.")
    ask(page, "Second")
    wait_until_answered(page)
    assert stub.requests[1]["messages"] == [{"role": "user", "content": "Second"}]
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)  # later turns build on the first


def test_a_server_with_a_key_asks_for_it(new_page, stub):
    stub.key = "secret"
    page = new_page(viewport={"width": 1280, "height": 800})
    page.goto(stub.address)
    notice = page.locator("#notice")
    expect(notice).to_contain_text("The server requires an API key.")
    ask(page, "Hi")
    problem = page.locator(".message .problem")
    expect(problem).to_contain_text("The server requires an API key.")
    problem.get_by_role("button", name="Enter API key").click()
    expect(page.locator("#api_key")).to_be_focused()
    expect(page.locator("#api_key")).to_be_in_viewport()
    page.keyboard.type("schlüssel")
    page.keyboard.press("Enter")
    expect(notice).to_contain_text("The API key has characters that no key can have.")
    page.fill("#api_key", "wrong")
    page.keyboard.press("Enter")
    expect(notice).to_contain_text("The API key is not correct.")
    page.fill("#api_key", "secret")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("stories-17m")
    expect(notice).to_be_hidden()
    problem.get_by_role("button", name="Retry").click()
    assert messages(page) == ["Hi", "Hello there."]


def test_dropped_messages_and_a_full_context_are_reported(page, stub):
    stub.chat = chat_answer("Hello", finish="length", prompt=255, dropped_messages=4)
    ask(page, "Hi")
    wait_until_answered(page)
    notes = page.locator(".message .note").all_inner_texts()
    assert notes == [
        "The context is full: the first 4 messages are no longer sent.",
        "Ended because the context is full.",
    ]
    stub.chat = chat_answer("Hello", finish="length", prompt=20)
    ask(page, "Hi")
    wait_until_answered(page)
    expect(page.locator(".message .note").last).to_have_text("Ended at the maximum number of tokens.")


def test_events_may_be_split_anywhere(page, stub):
    text = "Grüße 🐉 und „Drachen“\n\nüber 山"
    whole = b"".join(chat_answer(text, "!")).replace(b"\n\n", b"\r\n\r\n", 2)
    stub.chat = [b": comment\n\n", *(whole[i : i + 1] for i in range(len(whole)))]
    ask(page, "Hi")
    wait_until_answered(page)
    assert messages(page) == ["Hi", text + "!"]
    stub.chat = [whole]
    ask(page, "Hi")
    assert messages(page)[3] == text + "!"


MARKUP = "<img src=x onerror=\"document.title='changed'\"><script>document.title='changed'</script>"


def test_text_never_becomes_html(page, stub):
    stub.chat = chat_answer(MARKUP[:9], MARKUP[9:])
    ask(page, MARKUP)
    assert messages(page) == [MARKUP, MARKUP]
    stub.chat = error(400, None, MARKUP)
    stub.model["id"] = MARKUP
    page.reload()
    ask(page, "Hi")
    expect(page.locator(".problem")).to_contain_text(MARKUP)
    expect(page.locator("h1")).to_have_text(MARKUP)
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    expect(page).not_to_have_title("changed")


def test_fenced_code_is_shown_as_code(page, stub):
    stub.chat = chat_answer("Look:\n``", "`py", "thon\nprint('a')\n  b\n```", "\nUse `x` or ``` y\n", "``")
    ask(page, "Hi")
    wait_until_answered(page)
    expect(page.locator(".message pre")).to_have_text("print('a')\n  b")
    text = page.locator(".message.assistant .text").evaluate("element => element.textContent")
    assert text == "Look:\nprint('a')\n  b\nUse `x` or ``` y\n``"


def test_earlier_messages_are_not_rendered_again(page, stub):
    ask(page, "One")
    wait_until_answered(page)
    page.locator(".message").evaluate_all("all => all.forEach((element) => { element.seen = true; })")
    ask(page, "Two")
    wait_until_answered(page)
    seen = page.locator(".message").evaluate_all("all => all.map((element) => element.seen === true)")
    assert seen == [True, True, False, False]


def test_scrolling_follows_the_text_only_at_its_end(page, stub):
    at_end = "element => element.scrollHeight - element.scrollTop - element.clientHeight < 2"
    gate = threading.Event()
    lines = [f"line {number}\n" for number in range(60)]
    stub.chat = chat_answer(*lines, "middle", gate, *lines, "end")
    ask(page, "Hi")
    expect(page.locator(".message.assistant")).to_contain_text("middle")
    scroller = page.locator("#scroller")
    page.wait_for_timeout(100)
    assert scroller.evaluate(at_end)
    scroller.evaluate("element => element.scrollBy(0, -300)")
    expect(page.locator("#latest")).to_be_visible()
    top = scroller.evaluate("element => element.scrollTop")
    gate.set()
    wait_until_answered(page)
    expect(page.locator(".message.assistant")).to_contain_text("end")
    assert scroller.evaluate("element => element.scrollTop") == top
    page.click("#latest")
    expect(page.locator("#latest")).to_be_hidden()
    assert scroller.evaluate(at_end)


def test_a_base_model_shows_the_completion_tab_first(new_page, stub):
    stub.model["chat"] = False
    page = new_page()
    page.goto(stub.address)
    expect(page.locator("#completion")).to_be_visible()
    expect(page.locator("#chat")).to_be_hidden()
    page.get_by_role("tab", name="Chat").click()
    expect(page.locator("#empty")).to_contain_text("stories-17m is not a chat model")
    expect(page.locator("#empty")).to_contain_text("lmfast sft")
    expect(page.locator("#question")).to_be_disabled()


def test_conversations_that_cannot_be_stored_still_work(new_page, stub):
    page = new_page()
    page.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
    page.goto(stub.address)
    ask(page, "Hi")
    assert messages(page) == ["Hi", "Hello there."]
    expect(page.locator("#toast")).to_contain_text("storage is full")


def test_damaged_storage_is_ignored(new_page, stub):
    page = new_page()
    damaged = {
        "lmfast.settings": "{",
        "lmfast.conversation.x": json.dumps({"id": "x", "turns": 3}),
        "lmfast.theme": "[",
    }
    page.add_init_script(
        f"for (const [k, v] of Object.entries({json.dumps(damaged)})) localStorage.setItem(k, v)"
    )
    page.goto(stub.address)
    ask(page, "Hi")
    assert messages(page) == ["Hi", "Hello there."]
