"""Answers requests: parameters → sequences for the scheduler → one JSON document or a stream of events.

Independent of the endpoint but for two small classes of answers.py, which know the two formats.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmfast.inference.batching import Sequence
from lmfast.serving.answers import ChatAnswer, CompletionAnswer, event
from lmfast.serving.errors import ApiError, internal_error, queue_full, time_limit_passed
from lmfast.serving.http import ClientLeft, EventStream, read_body, unless_client_leaves
from lmfast.serving.metrics import Metrics
from lmfast.serving.parameters import ChatParameters, CompletionParameters, Parameters, parse
from lmfast.serving.scheduler import Job, QueueFull, Scheduler
from lmfast.serving.served_model import ServedModel
from lmfast.serving.text import StopFinder, TextStream

RETRY_AFTER = 1  # seconds, for clients that find the queue full
DONE = b"data: [DONE]\n\n"


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
        return await self._answer(request, parameters, CompletionAnswer(self.model), prompts, lengths)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        parameters = parse(ChatParameters, await self._body(request))
        self.model.require(parameters.model)
        ids, dropped = self.model.chat_ids(
            parameters.messages, parameters.max_tokens, parameters.truncation
        )
        length = self.model.answer_length(
            ids, parameters.max_tokens, "messages", shorten=parameters.truncation == "auto"
        )
        return await self._answer(request, parameters, ChatAnswer(self.model, dropped), [ids], [length])

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self.limits.max_body, self.limits.body_seconds)

    async def _answer(
        self,
        request: Request,
        parameters: Parameters,
        answer: "CompletionAnswer | ChatAnswer",
        prompts: list[list[int]],
        lengths: list[int],
    ) -> Response:
        sampling = parameters.sampling(secrets.randbits(62))
        vocab, stop_ids = self.model.tokenizer.vocab, self.model.stop_ids
        sequences = [
            Sequence(
                ids, length, sampling, row=number * parameters.n + choice,
                stop_ids=() if parameters.ignore_eos else stop_ids,
                stops=StopFinder(vocab, parameters.stop) if parameters.stop else None,
                top_logprobs=parameters.top_logprobs,
            )  # fmt: skip
            for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True))
            for choice in range(parameters.n)
        ]
        client = parameters.user or (request.client.host if request.client else "")
        job = Job(sequences, client, parameters.stream)
        texts = [TextStream(vocab, parameters.stop) for _ in sequences]
        try:
            self.scheduler.submit(job)
        except QueueFull:
            raise queue_full(self.scheduler.waiting, RETRY_AFTER) from None
        if parameters.stream:
            events = self._events(job, texts, answer, parameters.include_usage, len(prompts))
            return EventStream(events)
        with self._watched(job, len(prompts)):
            await unless_client_leaves(request.receive, self._finished(job))
            return JSONResponse(answer.whole(sequences, texts))

    async def _finished(self, job: Job) -> None:
        async for _ in self._changes(job):
            pass

    async def _changes(self, job: Job) -> AsyncIterator[None]:
        """Yields whenever a job has new ids or ended sequences, until it has ended. Raises ApiError if it failed."""
        try:
            async with asyncio.timeout_at(self._deadline(job)):
                while True:
                    await job.changed.wait()
                    job.changed.clear()
                    if job.failed:
                        raise internal_error()
                    finished = job.finished
                    yield
                    if finished:
                        return
        except TimeoutError:
            raise time_limit_passed(self.limits.seconds) from None
