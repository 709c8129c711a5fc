"""The server over HTTP, with OpenAI's own client."""

import json
import socket
import threading
import time

import httpx
import openai
import pytest

from lmfast.data.chat import ending_ids, render_prompt
from lmfast.data.chat_records import Message
from lmfast.inference.decode import continue_prompts
from lmfast.inference.sampling import Sampling
from lmfast.serving.answering import Limits
from lmfast.tokenizer.bpe import Tokenizer
from tests.inference.test_batching import CountingDecoder
from tests.serving.server import CONTEXT, model, running_server, tokenizer


@pytest.fixture(scope="module")
def server():
    with running_server() as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def offline(ids: list[int], count: int, sampling: Sampling, row: int = 0, stops: bool = True) -> list[int]:
    rows = [list(ids)] * (row + 1)
    return continue_prompts(
        model(), rows, count, sampling, stop_ids=ending_ids(tokenizer()) if stops else ()
    )[row]


def post(server, body, path="/v1/completions", **headers) -> httpx.Response:
    return httpx.post(
        server.url + path, content=body if isinstance(body, bytes | str) else json.dumps(body),
        headers={"Content-Type": "application/json", **headers}, timeout=30,
    )  # fmt: skip


def test_completions_are_those_of_generate(client):
    prompt = "the cat sat on a "
    ids = tokenizer().encode(prompt)
    sampled = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=30, temperature=0.9, top_p=0.8, seed=5, n=3,
        extra_body={"top_k": 20},
    )  # fmt: skip
    for row, choice in enumerate(sampled.choices):
        expected = offline(ids, 30, Sampling(0.9, 20, 0.8, 5), row)
        assert choice.text == tokenizer().decode(expected)
        assert choice.finish_reason == ("length" if len(expected) == 30 else "stop")
    assert len({choice.text for choice in sampled.choices}) == 3
    assert sampled.usage is not None and sampled.usage.prompt_tokens == len(ids)

    by_ids = client.completions.create(
        model="tiny", prompt=[ids, ids[:2]], max_tokens=9, temperature=0, extra_body={"ignore_eos": True}
    )
    for choice, prompt_ids in zip(by_ids.choices, [ids, ids[:2]], strict=True):
        assert choice.text == tokenizer().decode(offline(prompt_ids, 9, Sampling(0.0), stops=False))
    assert by_ids.usage is not None and by_ids.usage.completion_tokens == 18


def test_an_empty_prompt_starts_a_text(client):
    found = client.completions.create(model="tiny", prompt="", max_tokens=12, temperature=0)
    start = tokenizer().special_tokens["<|endoftext|>"]
    assert found.choices[0].text == tokenizer().decode(offline([start], 12, Sampling(0.0)))


def test_streams_are_the_whole_answer_in_pieces(client):
    options = dict(model="tiny", prompt="a dog ran ", max_tokens=60, temperature=1.1, seed=2, n=2)
    whole = client.completions.create(**options, logprobs=3)
    chunks = list(
        client.completions.create(**options, logprobs=3, stream=True, stream_options={"include_usage": True})
    )
    for choice in whole.choices:
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]
        assert parts[-1].finish_reason == choice.finish_reason
        tokens = [token for part in parts if part.logprobs for token in part.logprobs.tokens]
        logprobs = [number for part in parts if part.logprobs for number in part.logprobs.token_logprobs]
        assert tokens == choice.logprobs.tokens and logprobs == choice.logprobs.token_logprobs
        assert all(len(top) >= 3 for top in choice.logprobs.top_logprobs)
        assert max(choice.logprobs.token_logprobs) <= 0
    assert chunks[-1].choices == [] and all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_chat_is_that_of_generate(client):
    messages = [
        {"role": "system", "content": "the mat. "},
        {"role": "user", "content": "a cat "},
        {"role": "assistant", "content": "ran "},
        {"role": "user", "content": [{"type": "text", "text": "the dog "}]},
    ]
    ids = render_prompt(
        [Message("system", "the mat. "), Message("user", "a cat "), Message("assistant", "ran "),
         Message("user", "the dog ")], tokenizer(),
    )  # fmt: skip
    expected = tokenizer().decode(offline(ids, 40, Sampling(0.7, seed=3)))
    options = dict(model="tiny", messages=messages, max_completion_tokens=40, temperature=0.7, seed=3)
    whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.content == expected
    assert whole.choices[0].message.role == "assistant"
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_without_max_tokens_a_chat_answer_may_fill_the_context(client):
    found = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "a cat "}], temperature=0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert found.usage.total_tokens == CONTEXT and found.choices[0].finish_reason == "length"


def test_stop_strings_may_span_tokens(client):
    ids = tokenizer().encode("the ")
    text = tokenizer().decode(offline(ids, 40, Sampling(0.0), stops=False))
    options = dict(model="tiny", prompt="the ", max_tokens=40, temperature=0, extra_body={"ignore_eos": True})
    stop = text[17:20]
    expected = text[: text.index(stop)]
    whole = client.completions.create(**options, stop=stop)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (expected, "stop")
    assert whole.usage.completion_tokens < 40
    pieces = [
        c.choices[0].text for c in client.completions.create(**options, stop=[stop, "never"], stream=True)
    ]
    assert "".join(pieces) == expected


def test_an_equal_beginning_is_computed_once(server, client):
    prompt = "a" * 60
    for cached in (0, 59):
        found = client.completions.create(model="tiny", prompt=prompt, max_tokens=1, temperature=0)
        assert found.usage.prompt_tokens == 60
        assert found.usage.prompt_tokens_details.cached_tokens == cached


def test_a_conversation_that_is_too_long(server, client):
    messages = [
        {"role": role, "content": "a cat " * 20} for _ in range(5) for role in ("user", "assistant")
    ] + [{"role": "user", "content": "the end. "}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=messages, max_tokens=20)
    assert caught.value.code == "context_length_exceeded"
    many = {"messages": [{"role": "user", "content": ""}] * 30_000}  # refused before they are encoded
    error = post(server, many, "/v1/chat/completions").json()["error"]
    assert error["code"] == "context_length_exceeded" and "30000 messages" in error["message"]
    found = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=20, extra_body={"truncation": "auto"}
    )
    assert found.dropped_messages == 8
    body = {"messages": messages, "stream": True, "truncation": "auto", "max_tokens": 1000}
    first = post(server, body, "/v1/chat/completions").text.split("\n\n")[0]
    assert json.loads(first.removeprefix("data: "))["dropped_messages"] == 10


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"prompt": "a " * 300, "max_tokens": 1}, 400, "context_length_exceeded", "prompt"),
        ({"prompt": "the " * 100_000}, 400, "context_length_exceeded", "prompt"),
        ({"prompt": [1] * CONTEXT}, 400, "context_length_exceeded", "prompt"),
        ({"prompt": "a", "max_tokens": 10**4000}, 400, "context_length_exceeded", "max_tokens"),
        ({"prompt": "a", "max_tokens": CONTEXT}, 400, "context_length_exceeded", "max_tokens"),
        ({"prompt": [99999]}, 400, None, "prompt"),
        ({"prompt": ["a", ""], "max_tokens": 1, "model": "other"}, 404, "model_not_found", "model"),
        ({"prompt": "a", "tempersture": 1}, 400, "unknown_parameter", "tempersture"),
        ({"prompt": "a", "presence_penalty": 1}, 400, "unsupported_parameter", "presence_penalty"),
        (b"{", 400, None, None),
    ],
)
def test_errors(server, body, status, code, param):
    found = post(server, body)
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert (error["code"], error["param"]) == (code, param) and 0 < len(error["message"]) < 500
    assert "lmfast" not in error["message"] and "Traceback" not in found.text


def test_addresses_and_methods(server):
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    (listed,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert listed["id"] == "tiny" and listed["max_model_len"] == CONTEXT and listed["chat"] is True
    assert httpx.get(f"{server.url}/v1/models/tiny").json() == listed
    assert httpx.get(f"{server.url}/v1/models/x/y").json()["error"]["code"] == "model_not_found"
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["code"] == "not_found"
    for path in ("/health/", "/v1/completions/", "//v1/models"):
        assert post(server, {"prompt": "a"}, path).json()["error"]["code"] == "not_found"
    found = httpx.get(f"{server.url}/v1/completions")
    assert found.status_code == 405 and found.json()["error"]["code"] == "method_not_allowed"
    page = httpx.get(server.url)
    assert page.headers["content-type"].startswith("text/html") and "<title>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (
        "access-control-allow-origin" not in httpx.get(server.url, headers={"Origin": "http://a.b"}).headers
    )


def test_media_type_and_size():
    with running_server(limits=Limits(max_body=1000)) as server:
        plain = httpx.post(
            f"{server.url}/v1/completions", content=b"{}", headers={"Content-Type": "text/plain"}
        )
        assert plain.status_code == 415
        assert post(server, {"prompt": "a" * 2000}).status_code == 413

        def pieces():
            yield b'{"prompt": "'
            for _ in range(30):
                yield b"a" * 100

        found = httpx.post(
            f"{server.url}/v1/completions", content=pieces(), headers={"Content-Type": "application/json"}
        )
        assert found.status_code == 413


def test_a_slow_body_is_given_up():
    with (
        running_server(limits=Limits(body_seconds=0.2)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
    ):
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_keys_and_hosts():
    with running_server(api_key="secret", hosts={"127.0.0.1"}) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(server.url).status_code == 200
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            for headers in (
                {},
                {"Authorization": "Bearer secre"},
                {"Authorization": "secret"},
                {"Authorization": "Basic secret"},
            ):
                found = httpx.get(server.url + path, headers=headers)
                assert found.status_code == 401 and found.json()["error"]["code"] == "invalid_api_key"
        key = {"Authorization": "bearer secret"}
        assert httpx.get(f"{server.url}/v1/models", headers=key).status_code == 200
        found = httpx.get(f"{server.url}/v1/models", headers=key | {"Host": "evil.example"})
        assert found.status_code == 403 and found.json()["error"]["code"] == "foreign_host"


def test_cors_only_where_it_is_allowed():
    with running_server(origins=["http://good.example"], api_key="secret") as server:
        names = "authorization,content-type,x-stainless-lang"
        asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": names}
        allowed = httpx.options(
            f"{server.url}/v1/completions", headers={"Origin": "http://good.example", **asking}
        )
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "http://good.example"
        other = httpx.options(
            f"{server.url}/v1/completions", headers={"Origin": "http://bad.example", **asking}
        )
        assert "access-control-allow-origin" not in other.headers


class SlowDecoder(CountingDecoder):
    """Each step takes 10 ms, and ids are those of printable bytes."""

    def step(self, slots, parts=()):
        time.sleep(0.01)
        return super().step(slots, parts)


def test_a_client_that_leaves_frees_its_slot():
    with running_server(decoder=SlowDecoder(slots=1, context_length=CONTEXT)) as server:
        for stream in (True, False):
            body = json.dumps({"prompt": "a", "max_tokens": 190, "stream": stream}).encode()
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                connection.sendall(
                    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                while server.scheduler.running == 0:
                    time.sleep(0.001)
            before = len(server.scheduler.decoder.steps)
            server.settle()
            assert len(server.scheduler.decoder.steps) - before < 20
        assert post(server, {"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_full_queue_and_the_time_limit():
    decoder = SlowDecoder(slots=1, context_length=CONTEXT)
    with running_server(decoder=decoder, max_queue=1, limits=Limits(seconds=0.5)) as server:
        found = []
        long = {"prompt": "a", "max_tokens": 190}
        threads = [threading.Thread(target=lambda: found.append(post(server, long))) for _ in range(2)]
        threads[0].start()
        while server.scheduler.running == 0:
            time.sleep(0.001)
        threads[1].start()
        while server.scheduler.waiting == 0:
            time.sleep(0.001)
        full = post(server, long)
        assert full.status_code == 429 and full.headers["retry-after"] == "1"
        for thread in threads:
            thread.join(30)
        assert [response.status_code for response in found] == [504, 504]
        streamed = post(server, long | {"stream": True})
        assert streamed.status_code == 200
        last = streamed.text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "time_limit"
        server.settle()


def test_more_answers_than_the_queue_holds():
    with running_server(slots=2, max_queue=3) as server:
        found = post(server, {"prompt": ["a", "b", "c"], "n": 2, "max_tokens": 1})
        assert found.status_code == 400 and "6 answers" in found.json()["error"]["message"]
        assert post(server, {"prompt": "a", "n": 5, "max_tokens": 1}).status_code == 200


def test_a_failing_decoder_gives_500_without_details(capfd):
    decoder = CountingDecoder(slots=2, context_length=CONTEXT)
    with running_server(decoder=decoder) as server:
        decoder.failing = True
        for stream in (False, True):
            found = post(server, {"prompt": "a", "stream": stream})
            assert found.status_code == (200 if stream else 500)
            error = json.loads(found.text.removeprefix("data: ").strip())["error"]
            assert error["code"] == "internal_error" and "lost" not in error["message"]
        decoder.failing = False
        assert post(server, {"prompt": "a"}).status_code == 200
    assert "the device is lost" in capfd.readouterr().err


def test_a_model_without_chat_tokens():
    plain = Tokenizer({**{i: bytes([i]) for i in range(256)}}, [])
    with running_server(tokens=plain, decoder=CountingDecoder(context_length=CONTEXT)) as server:
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["chat"] is False
        found = post(server, {"messages": [{"role": "user", "content": "a"}]}, "/v1/chat/completions")
        assert found.status_code == 400 and "not a chat model" in found.json()["error"]["message"]
        assert post(server, {"prompt": ""}).status_code == 400
        assert post(server, {"prompt": "a", "max_tokens": 3}).status_code == 200


def test_many_clients_get_their_own_answers(server):
    expected, found = {}, {}
    requests = {}
    for i in range(24):
        words = ["the ", "cat ", "dog "][i % 3] * (1 + i)
        requests[i] = {
            "prompt": words,
            "max_tokens": 5 + i,
            "temperature": i % 2,
            "seed": i,
            "stream": i % 4 == 0,
        }
        ids = offline(tokenizer().encode(words), 5 + i, Sampling(i % 2, seed=i))
        expected[i] = tokenizer().decode(ids)

    def ask(i: int) -> None:
        response = post(server, requests[i])
        assert response.status_code == 200
        if requests[i]["stream"]:
            events = [e.removeprefix("data: ") for e in response.text.strip().split("\n\n")]
            assert events.pop() == "[DONE]"
            found[i] = "".join(json.loads(e)["choices"][0]["text"] for e in events)
        else:
            found[i] = response.json()["choices"][0]["text"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == expected
