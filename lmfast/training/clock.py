"""How long a run has taken, what share of that was training, and when its time will be up.

In: seconds that earlier parts of the run took (before its stops), and the device, which is waited for where a time
would otherwise mean nothing. Out: seconds of the whole run; tokens a second of training alone, since the last time that
was asked; the share of a limit that will be used up when the next step is done.
"""

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Runs from its making. Time `aside` (evaluation, samples, checkpoints) is the run's, but not training's."""

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
        """Of the whole run, the parts before its stops included."""
        return self.before + time.perf_counter() - self.start

    def training_seconds(self) -> float:
        """Of training alone since this clock was made; waits for the device."""
        self._wait()
        return time.perf_counter() - self.start - self.all_excluded

    def share_after_next_step(self, limit: float | None) -> float:
        """Share of `limit` seconds that is used up when the next step is done and, were it the last, what follows it too:
        evaluation, sample, checkpoint, each as long as it took the last time. 0 without a limit.

        The next step is taken to be as long as the one before it, and nothing is known before the first. On a GPU the
        host may be a few steps ahead of the device here; it does not wait.
        """
        if limit is None:
            return 0.0
        return (self.seconds() + self.step_seconds + sum(self.last_excluded.values())) / limit

    def step_done(self, tokens: int) -> None:
        """A step is done, or on its way to the device."""
        if not self.warm:
            # The first step compiles; it would spoil the first rate.
            self._wait()
            if self.first_step_seconds is None:
                self.first_step_seconds = time.perf_counter() - self.mark
            self._restart(warm=True)
            return
        self.tokens += tokens
        now = time.perf_counter()
        self.step_seconds, self.step_began = now - self.step_began, now

    def tokens_per_second(self) -> float | None:
        """Of training since the last call; None where no step but the first was taken."""
        self._wait()
        elapsed = time.perf_counter() - self.mark - self.paused
        rate = self.tokens / elapsed if self.tokens else None
        self._restart(warm=True)
        return rate

    @contextlib.contextmanager
    def excluded(self, what: str) -> Iterator[None]:
        """Within, time is the run's and not training's; how long `what` took is remembered."""
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
