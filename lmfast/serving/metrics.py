"""What the server counts and measures, in Prometheus's text format for GET /metrics.

Each `Metrics` has a registry of its own. Methods may be called from any thread and take about a microsecond. Labels: the
endpoint, one of a few names, and the status; never what a client can choose freely.
"""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

FIRST_TOKEN = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
PER_TOKEN = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
DURATION = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)


class Metrics:
    """The metrics of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self):
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"lmfast_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"lmfast_{name}_seconds", text, labels, buckets=buckets, registry=registry)

        self._requests = counter("requests_total", "Responses, by endpoint and status.", "endpoint", "status")
        self._durations = histogram(
            "request_duration", "Time from a request to the end of its response.", DURATION, "endpoint"
        )
        self._disconnects = counter(
            "disconnects_total", "Clients that left before their answer was complete."
        )
        self._prompt = counter("prompt_tokens_total", "Tokens of prompts.")
        self._cached = counter(
            "cached_prompt_tokens_total",
            "Tokens of prompts that were taken from the cache of another sequence.",
        )
        self._generated = counter("generated_tokens_total", "Tokens generated.")
        self._first_token = histogram(
            "time_to_first_token", "Time from a request to its first token.", FIRST_TOKEN
        )
        self._per_token = histogram(
            "time_per_output_token", "Mean time between an answer's tokens after the first.", PER_TOKEN
        )
        self._rate = Gauge(
            "lmfast_tokens_per_second",
            "Generated tokens per second of decoding, on average.",
            registry=registry,
        )
        self._running = Gauge("lmfast_running_sequences", "Sequences being decoded.", registry=registry)
        self._queued = Gauge("lmfast_queued_sequences", "Sequences waiting for a slot.", registry=registry)

    def responded(self, endpoint: str, status: int, seconds: float) -> None:
        """seconds: until the end of the response."""
        self._requests.labels(endpoint, str(status)).inc()
        self._durations.labels(endpoint).observe(seconds)

    def disconnected(self) -> None:
        self._disconnects.inc()

    def count_tokens(self, prompt: int, cached: int, generated: int) -> None:
        """cached: of the prompt's tokens."""
        self._prompt.inc(prompt)
        self._cached.inc(cached)
        self._generated.inc(generated)

    def first_token(self, seconds: float) -> None:
        """seconds: since the request arrived."""
        self._first_token.observe(seconds)

    def further_tokens(self, count: int, seconds: float) -> None:
        """Those of one answer after its first, `seconds` in all."""
        if count > 0:
            self._per_token.observe(seconds / count)

    def text(self, running: int, queued: int, tokens_per_second: float) -> bytes:
        """The response to GET /metrics, of type `content_type`; with the numbers of sequences at the moment."""
        self._rate.set(tokens_per_second)
        self._running.set(running)
        self._queued.set(queued)
        return generate_latest(self._registry)
