"""Answers requests: parameters → sequences for the scheduler → one JSON document or a stream of events.

The two endpoints differ in how prompts become ids and in the format of their answers (answers.py).
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmfast.inference.batching import Sequence, StopFinder
from lmfast.serving.answers import (
    DONE,
    ChatAnswers,
    Choice,
    CompletionAnswers,
    Finish,
    TokenNames,
    encode,
    event,
    usage,
)
from lmfast.serving.errors import ApiError, internal_error, invalid_request, queue_full, time_limit_passed
from lmfast.serving.http import ClientLeft, EventStream, read_body, unless_client_leaves
from lmfast.serving.metrics import Metrics
from lmfast.serving.parameters import ChatParameters, CompletionParameters, parse
from lmfast.serving.scheduler import Job, QueueFull, Scheduler
from lmfast.serving.served_model import ServedModel
from lmfast.serving.text import Piece, TextStream

RETRY_AFTER = 1  # seconds, for clients that find the queue full


@dataclass(frozen=True)
class Limits:
    """Of one request. seconds: until it is given up, waiting included."""

    max_body: int = 2_000_000
    body_seconds: float = 30.0
    seconds: float = 600.0


class Answering:
    """The two endpoints that generate text."""

    def __init__(self, model: ServedModel, scheduler: Scheduler, limits: Limits, metrics: Metrics):
        self.model, self.scheduler, self.limits, self.metrics = model, scheduler, limits, metrics
        self.names = TokenNames(model.tokenizer.vocab)

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        parameters = parse(CompletionParameters, await self._body(request))
        self.model.require(parameters.model)
        given = parameters.prompts
        names = ["prompt"] if len(given) == 1 else [f"prompt[{i}]" for i in range(len(given))]
        prompts = [self.model.prompt_ids(prompt, name) for prompt, name in zip(given, names, strict=True)]
        lengths = [
            self.model.answer_length(ids, parameters.max_tokens, name, shorten=False)
            for ids, name in zip(prompts, names, strict=True)
        ]
        answers = CompletionAnswers(
            self.model.name, self.names, logprobs=parameters.top_logprobs is not None,
            include_usage=parameters.include_usage,
        )  # fmt: skip
        return await self._answer(request, parameters, answers, prompts, lengths)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        parameters = parse(ChatParameters, await self._body(request))
        self.model.require(parameters.model)
        truncates = parameters.truncation == "auto"
        ids, dropped = self.model.chat_ids(parameters.messages, parameters.max_tokens, truncates)
        length = self.model.answer_length(ids, parameters.max_tokens, "messages", shorten=truncates)
        answers = ChatAnswers(
            self.model.name, self.names, logprobs=parameters.top_logprobs is not None,
            include_usage=parameters.include_usage, dropped=dropped if truncates else None,
        )  # fmt: skip
        return await self._answer(request, parameters, answers, [ids], [length])

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self.limits.max_body, self.limits.body_seconds)

    async def _answer(
        self,
        request: Request,
        parameters: CompletionParameters | ChatParameters,
        answers: CompletionAnswers | ChatAnswers,
        prompts: list[list[int]],
        lengths: list[int],
    ) -> Response:
        count = len(prompts) * parameters.n
        if count > self.scheduler.capacity:
            message = f"the request is for {count} answers; this server takes at most {self.scheduler.capacity} at once"
            raise invalid_request(message, "n")
        job = Job(
            self._sequences(parameters, prompts, lengths),
            parameters.user or (request.client.host if request.client else ""),
            parameters.stream,
        )
        texts = [TextStream(self.model.tokenizer.vocab, parameters.stop) for _ in job.sequences]
        try:
            self.scheduler.submit(job)
        except QueueFull:
            raise queue_full(self.scheduler.waiting, RETRY_AFTER) from None
        if parameters.stream:
            events = self._events(job, texts, answers, parameters.include_usage)
            return EventStream(events, self._watched(job))
        with self._watched(job):
            await unless_client_leaves(request.receive, self._finished(job))
            choices = [_choice(*pair) for pair in zip(job.sequences, texts, strict=True)]
            return Response(encode(answers.whole(choices, _usage(job))), media_type="application/json")

    def _sequences(
        self, parameters: CompletionParameters | ChatParameters, prompts: list[list[int]], lengths: list[int]
    ) -> list[Sequence]:
        """`n` for each prompt, numbered in the order of their choices."""
        sampling = parameters.sampling(secrets.randbits(62))
        vocab, stop = self.model.tokenizer.vocab, parameters.stop
        return [
            Sequence(
                ids, length, sampling, row=number * parameters.n + choice,
                stop_ids=() if parameters.ignore_eos else self.model.stop_ids,
                stops=StopFinder(vocab, stop) if stop else None,
                top_logprobs=parameters.top_logprobs,
            )
            for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True))
            for choice in range(parameters.n)
        ]  # fmt: skip

    @contextlib.contextmanager
    def _watched(self, job: Job) -> Iterator[None]:
        """Cancels a job that is left before it has ended, and counts it."""
        try:
            yield
        except ClientLeft:
            self.metrics.disconnected()
            raise
        finally:
            if not job.finished:
                self.scheduler.cancel(job)
            self._count(job)

    def _count(self, job: Job) -> None:
        for sequence in job.sequences:
            self.metrics.count_tokens(len(sequence.prompt), sequence.cached, len(sequence.ids))
        if job.first_id is not None:
            self.metrics.first_token(job.first_id - job.submitted)
            longest = max(len(sequence.ids) for sequence in job.sequences)
            self.metrics.further_tokens(longest - 1, time.monotonic() - job.first_id)

    async def _finished(self, job: Job) -> None:
        while not await self._next_change(job):
            pass

    async def _next_change(self, job: Job) -> bool:
        """Waits until a job has new ids or ended sequences; whether it has ended. Raises ApiError if it failed."""
        try:
            async with asyncio.timeout_at(job.submitted + self.limits.seconds):
                await job.changed.wait()
        except TimeoutError:
            raise time_limit_passed(self.limits.seconds) from None
        job.changed.clear()
        if job.failed:
            raise internal_error()
        return job.finished

    async def _events(
        self,
        job: Job,
        texts: list[TextStream],
        answers: CompletionAnswers | ChatAnswers,
        include_usage: bool,
    ) -> AsyncIterator[bytes]:
        """The events of a stream, those that are ready together in one piece."""
        left, seen = set(range(len(texts))), [0] * len(texts)
        if isinstance(answers, ChatAnswers):
            yield b"".join(event(answers.first_chunk(i)) for i in sorted(left))
        try:
            ended = False
            while not ended:
                ended = await self._next_change(job)
                data = []
                for i in sorted(left):
                    sequence = job.sequences[i]
                    finish = sequence.finish  # read first: no ids are added after it is set
                    ids = sequence.ids[seen[i] :]
                    logprobs = sequence.logprobs[seen[i] : seen[i] + len(ids)]
                    seen[i] += len(ids)
                    piece = texts[i].feed(ids, logprobs)
                    if finish is not None:
                        piece = _joined(piece, texts[i].finish())
                        left.discard(i)
                    if piece.text or piece.tokens or finish is not None:
                        data.append(event(answers.chunk(i, piece, _as_finish(finish))))
                if data:
                    yield b"".join(data)
            if include_usage:
                yield event(answers.usage_chunk(_usage(job)))
            yield DONE
        except ApiError as error:
            yield event(error.body())


def _choice(sequence: Sequence, text: TextStream) -> Choice:
    piece = _joined(text.feed(sequence.ids, sequence.logprobs), text.finish())
    finish = _as_finish(sequence.finish)
    assert finish is not None
    return Choice(piece.text, piece.tokens, finish)


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece(first.text + second.text, first.tokens + second.tokens)


def _as_finish(finish: str | None) -> Finish | None:
    """Of a sequence; "cancelled" only occurs when nobody reads it."""
    return None if finish is None else "stop" if finish == "stop" else "length"


def _usage(job: Job) -> dict[str, Any]:
    first_of_prompt: dict[int, Sequence] = {}  # choices of a prompt share its list
    for sequence in job.sequences:
        first_of_prompt.setdefault(id(sequence.prompt), sequence)
    prompts = first_of_prompt.values()
    return usage(
        sum(len(sequence.prompt) for sequence in prompts),
        sum(len(sequence.ids) for sequence in job.sequences),
        sum(sequence.cached for sequence in prompts),
    )
