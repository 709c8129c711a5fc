"""A model of ours as lm-eval's `LM`: `loglikelihood`, `loglikelihood_rolling` and `generate_until`.

Requests become ids as in lm-eval's `hf` backend, and so are the results: contexts that are too long lose their beginning, an
empty context is <|endoftext|>, rolling windows are lm-eval's, probabilities are over the whole vocabulary, and `is_greedy`
prefers the lowest id on ties. Needs the package lm_eval. Source: github.com/EleutherAI/lm-evaluation-harness
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lmfast.data.chat import BOS, END, ROLE_TOKENS
from lmfast.errors import UserError
from lmfast.evaluation.generating import Continuations, parse_options
from lmfast.evaluation.task_tokenizer import check_tokenizer
from lmfast.inference.scoring import Text
from lmfast.inference.torch_scoring import make_scorer
from lmfast.interop import chat_template as templates
from lmfast.model.transformer import TransformerLM
from lmfast.tokenizer.bpe import Tokenizer

Progress = Callable[[str, int, int], None]
"""(phase: "scoring" or "generating", requests done, all requests)"""


class TaskModel(TemplateLM):
    """A TransformerLM and its tokenizer, evaluated under the current autocast. Raises UserError without <|endoftext|>."""

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer, progress: Progress = lambda *_: None):
        super().__init__()
        check_tokenizer(tokenizer)
        self.model, self.text_tokenizer, self.progress = model, tokenizer, progress
        self.scorer = make_scorer(model)
        self.max_length = model.config.context_length
        self.shortened = self.requests = 0
        """requests whose beginning did not fit the context, of all so far"""
        self.capped_at: int | None = None
        """tokens that were generated at most where a task asked for as many as the context holds, or more"""
        # The answers of a question share its context, which is encoded for each.
        self.encode = lru_cache(1024)(lambda text: tuple(tokenizer.encode(text)))

    @property
    def eot_token_id(self) -> int:
        return self.text_tokenizer.special_tokens[BOS]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text, in which special tokens are recognised; none is added."""
        return list(self.encode(string))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        windows: list[tuple[list[int], list[int]]] = []
        counts: list[int] = []
        for text in (str(request.args[0]) for request in requests):
            before = len(windows)
            windows += map(
                make_disjoint_window,
                get_rolling_token_windows(
                    self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
                ),
            )
            counts.append(len(windows) - before)
        found = iter(self._score(windows))
        return [sum(next(found)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        wanted = self.continuations(requests)
        done = 0

        def count(finished: int) -> None:
            nonlocal done
            done += finished
            self.progress("generating", done, len(requests))

        return wanted.run(count)

    def continuations(self, requests: list[Instance]) -> Continuations:
        """The contexts of `generate_until`, checked. Raises UserError for options that the decoder does not have."""
        wanted = Continuations(self.model, self.text_tokenizer)
        pairs: list[Any] = [request.args for request in requests]
        for context, given in pairs:
            options = parse_options(given, self.max_length)
            wanted.add(self.tok_encode(context) or [self.eot_token_id], options)
            if options.capped:
                self.capped_at = options.max_tokens
        self.requests += len(requests)
        self.shortened += wanted.shortened
        return wanted

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._score([(context, continuation) for _, context, continuation in requests])

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether greedy decoding gives it) of each (context, continuation)."""
        texts, places = [], []
        for place, (context, continuation) in enumerate(pairs):
            if len(continuation) > self.max_length:
                raise UserError(
                    f"a text to score has {len(continuation)} tokens, more than the context of {self.max_length}; choose "
                    "another task, or a model with a longer context"
                )
            ids = context + continuation
            self.requests += 1
            self.shortened += len(ids) > self.max_length + 1
            ids = ids[-(self.max_length + 1) :]
            if continuation:
                texts.append(Text(ids, len(ids) - len(continuation)))
                places.append(place)
        done = 0

        def count(finished: int) -> None:
            nonlocal done
            done += finished
            self.progress("scoring", done, len(texts))

        results = [(0.0, True)] * len(pairs)
        for place, scores in zip(places, self.scorer.score(texts, count), strict=True):
            results[place] = (float(scores.logprobs.sum()), bool(scores.greedy.all()))
        return results

    # Chat: the text has the ids that lmfast.data.chat renders, because `tok_encode` recognises its special tokens.

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as text; without add_generation_prompt, the last one is left open, to be continued."""
        text = BOS
        for message in chat_history:
            role, content = message["role"], message["content"]
            if role not in ROLE_TOKENS:
                raise UserError(f"a task has a message from {role!r}; the roles are {', '.join(ROLE_TOKENS)}")
            for special in self.text_tokenizer.special_tokens:
                if special in content:
                    raise UserError(f"a message of a task contains the special token {special}")
            text += ROLE_TOKENS[role] + content + END
        return text + ROLE_TOKENS["assistant"] if add_generation_prompt else text.removesuffix(END)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The same as a Jinja template."""
        check_tokenizer(self.text_tokenizer, chat=True)
        return templates.chat_template(self.text_tokenizer)

    @property
    def tokenizer_name(self) -> str:
        return self.text_tokenizer.fingerprint()
