"""Requests of many kinds with their answers, for load on a server: `plan(run, count, seed)`.

Each kind of request is answered offline by `generate`: prompts of 1 to 200 ids or conversations with one system message,
1 to 64 new ids, greedy or sampled with a seed, 1 to 3 answers, some with log probabilities or a stop string that occurs in
the answer, across tokens.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from bench.serving_offline import Offline
from lmfast import ModelConfig
from lmfast.data.chat import ending_ids, render_prompt
from lmfast.data.chat_records import Message
from lmfast.inference.sampling import Sampling

SHAPE = ModelConfig(512, 288, d_model=64, num_layers=2, num_heads=2, d_ff=176)
"""of a model for these requests"""
MOST_PROMPT, MOST_NEW, MOST_ANSWERS = 200, 64, 3
SYSTEM = "Answer kindly, in two or three short sentences, and say so if you do not know. " * 2
Leaving = Literal["stays", "half a request", "before the answer", "during the stream"]


@dataclass(frozen=True)
class Kind:
    """texts, finishes: of the answers, in order."""

    path: str
    body: dict[str, Any]
    texts: list[str]
    finishes: list[str]
    prompt_tokens: int


@dataclass(frozen=True)
class Planned:
    """A request. after: how much a client that leaves sees: events of a stream, or milliseconds of waiting."""

    kind: Kind
    stream: bool
    leaving: Leaving = "stays"
    after: int = 0

    @property
    def body(self) -> dict[str, Any]:
        if not self.stream:
            return self.kind.body
        return self.kind.body | {"stream": True, "stream_options": {"include_usage": True}}

    @property
    def title(self) -> str:
        """The parameters but for the prompt, as text."""
        return ", ".join(f"{k} {v!r}" for k, v in self.body.items() if k not in ("prompt", "messages"))


def plan(run: Path, count: int, seed: int, kinds: int = 400, leaving: float = 0.1) -> list[Planned]:
    """`count` requests of at most `kinds` kinds; a part `leaving` of the clients leaves early."""
    rng = Random(seed)
    with Offline(run, threads=1) as offline:
        found = [make_kind(offline, rng) for _ in range(min(kinds, count))]
    return [make_request(kind, rng, leaving) for kind in (found[i % len(found)] for i in range(count))]


def make_request(kind: Kind, rng: Random, leaving: float) -> Planned:
    planned = Planned(kind, stream=rng.random() < 0.5)
    if rng.random() >= leaving:
        return planned
    way: Leaving = rng.choice(("half a request", "before the answer", "during the stream"))
    return replace(
        planned, stream=planned.stream or way == "during the stream", leaving=way, after=rng.randrange(20)
    )


def make_kind(offline: Offline, rng: Random) -> Kind:
    tokenizer = offline.tokenizer
    body: dict[str, Any] = {"max_tokens": rng.randint(1, MOST_NEW), "n": rng.randint(1, MOST_ANSWERS)}
    sampling = Sampling(0.0)
    body["temperature"] = 0
    if rng.random() < 0.5:
        sampling = Sampling(
            rng.uniform(0.3, 1.5), rng.choice((None, 5, 50)), rng.choice((None, 0.9)), rng.randrange(1 << 40)
        )
        body |= {"temperature": sampling.temperature, "seed": sampling.seed}
        body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        body |= {"top_p": sampling.top_p} if sampling.top_p else {}
    if rng.random() < 1 / 3:
        path = "/v1/chat/completions"
        question = "".join(rng.choices("abcdefghij klmnop?", k=rng.randint(1, 60)))
        messages = [Message("system", SYSTEM), Message("user", question)]
        body["messages"] = [message._asdict() for message in messages]
        prompt = render_prompt(messages, tokenizer)
    else:
        path = "/v1/completions"
        prompt = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(1, MOST_PROMPT))]
        body["prompt"] = prompt
    if rng.random() < 0.2:
        body |= {"logprobs": 3} if "prompt" in body else {"logprobs": True, "top_logprobs": 3}
    stop_ids = ending_ids(tokenizer)
    if rng.random() < 0.5:
        body["ignore_eos"], stop_ids = True, frozenset()
    assert len(prompt) + MOST_NEW <= SHAPE.context_length
    rows = offline.generate([prompt] * body["n"], body["max_tokens"], sampling, stop_ids)
    texts = [tokenizer.decode(row) for row in rows]
    finishes = ["length" if len(row) == body["max_tokens"] else "stop" for row in rows]
    if rng.random() < 0.3:
        body["stop"] = stop_string(texts[0], rng)
        for i, text in enumerate(texts):
            before, found, _ = text.partition(body["stop"])
            texts[i], finishes[i] = before, "stop" if found else finishes[i]
    return Kind(path, body, texts, finishes, len(prompt))


def stop_string(text: str, rng: Random) -> str:
    """Up to five characters of a text, or some that are not in it."""
    begin = rng.randrange(max(1, len(text)))
    found = text[begin : begin + rng.randint(1, 5)]
    return found if found.isascii() and found else "\n\nnot in the text"
