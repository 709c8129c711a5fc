"""Measures the time of a run: total, training only, and the fraction of a time limit.

Input: seconds from before the run was resumed, and the device, which is synchronised where a time would otherwise be
meaningless. Output: seconds of the whole run; training tokens per second since the last call; the fraction of the limit
that will be used after the next step.
"""

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Starts when constructed. Time inside `excluded` (evaluation, samples, checkpoints) is not training time."""

    def __init__(self, before: float, device: torch.device):
        self.device, self.before = device, before
        self.start = time.perf_counter()
        self.last_excluded: dict[str, float] = {}
        self.all_excluded = 0.0
        self.step_seconds = 0.0
        self.first_step_seconds: float | None = None
        self._restart(warm=False)

    def _restart(self, warm: bool) -> None:
        self.mark, self.tokens, self.paused, self.warm = time.perf_counter(), 0, 0.0, warm
        self.step_began = self.mark

    def seconds(self) -> float:
        """Seconds of the whole run, including the time before it was resumed."""
        return self.before + time.perf_counter() - self.start

    def training_seconds(self) -> float:
        """Seconds of training since this clock was constructed; waits for the device."""
        self._wait()
        return time.perf_counter() - self.start - self.all_excluded

    def share_after_next_step(self, limit: float | None) -> float:
        """Fraction of `limit` seconds used after the next step and a final evaluation, sample and checkpoint.

        Each is assumed to take as long as the last time; 0 without a limit. Does not wait for the device, which may be
        a few steps behind.
        """
        if limit is None:
            return 0.0
        return (self.seconds() + self.step_seconds + sum(self.last_excluded.values())) / limit

    def step_done(self, tokens: int) -> None:
        """Records that a step has been launched."""
        if not self.warm:
            # The first step compiles and is excluded from the rate.
            self._wait()
            if self.first_step_seconds is None:
                self.first_step_seconds = time.perf_counter() - self.mark
            self._restart(warm=True)
            return
        self.tokens += tokens
        now = time.perf_counter()
        self.step_seconds, self.step_began = now - self.step_began, now

    def tokens_per_second(self) -> float | None:
        """Training tokens per second since the last call; None before the second step."""
        self._wait()
        elapsed = time.perf_counter() - self.mark - self.paused
        rate = self.tokens / elapsed if self.tokens else None
        self._restart(warm=True)
        return rate

    @contextlib.contextmanager
    def excluded(self, what: str) -> Iterator[None]:
        """Excludes the time of the block from training time, and remembers it as the duration of `what`."""
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        ended = time.perf_counter()
        self.paused += ended - began
        self.all_excluded += ended - began
        self.last_excluded[what], self.step_began = ended - began, ended

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
