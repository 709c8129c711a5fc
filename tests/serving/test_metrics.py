"""Every metric's name, type and value, read with Prometheus's own parser."""

import prometheus_client
from prometheus_client.parser import text_string_to_metric_families

from lmfast.serving.metrics import Metrics


def samples(metrics: Metrics, running: int = 0, queued: int = 0) -> dict[str, float]:
    """{name{labels}: value}, without times of creation."""
    text = metrics.text(running, queued, 12.5).decode()
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_counters_and_gauges():
    metrics = Metrics()
    metrics.count_tokens(prompt=10, cached=4, generated=7)
    metrics.count_tokens(prompt=1, cached=0, generated=2)
    metrics.disconnected()
    found = samples(metrics, running=3, queued=5)
    assert found["lmfast_prompt_tokens_total"] == 11
    assert found["lmfast_cached_prompt_tokens_total"] == 4
    assert found["lmfast_generated_tokens_total"] == 9
    assert found["lmfast_disconnects_total"] == 1
    assert found["lmfast_tokens_per_second"] == 12.5
    assert found["lmfast_running_sequences"] == 3 and found["lmfast_queued_sequences"] == 5
    assert samples(metrics)["lmfast_running_sequences"] == 0


def test_requests_by_endpoint_and_status():
    metrics = Metrics()
    for status in (200, 200, 400):
        metrics.responded("/v1/completions", status, 0.03)
    found = samples(metrics)
    assert found["lmfast_requests_total,endpoint=/v1/completions,status=200"] == 2
    assert found["lmfast_requests_total,endpoint=/v1/completions,status=400"] == 1
    assert found["lmfast_request_duration_seconds_count,endpoint=/v1/completions"] == 3
    assert found["lmfast_request_duration_seconds_bucket,endpoint=/v1/completions,le=0.05"] == 3
    assert found["lmfast_request_duration_seconds_bucket,endpoint=/v1/completions,le=0.02"] == 0


def test_times_of_tokens():
    metrics = Metrics()
    metrics.first_token(0.004)
    metrics.further_tokens(10, 0.04)
    metrics.further_tokens(0, 0.0)
    metrics.further_tokens(-1, 0.5)  # the answer is empty: its first id was a stop
    found = samples(metrics)
    assert found["lmfast_time_to_first_token_seconds_bucket,le=0.005"] == 1
    assert found["lmfast_time_to_first_token_seconds_bucket,le=0.002"] == 0
    assert found["lmfast_time_per_output_token_seconds_count"] == 1
    assert found["lmfast_time_per_output_token_seconds_sum"] == 0.004


def test_names_and_help():
    families = list(text_string_to_metric_families(Metrics().text(0, 0, 12.5).decode()))
    named = {family.name: family for family in families if not family.name.endswith("_created")}
    assert len(named) == 11
    assert all(name.startswith("lmfast_") and family.documentation for name, family in named.items())
    assert {family.type for family in named.values()} == {"counter", "gauge", "histogram"}
    assert Metrics.content_type.startswith("text/plain; version=")


def test_servers_do_not_share_metrics():
    one, other = Metrics(), Metrics()
    one.disconnected()
    assert samples(other)["lmfast_disconnects_total"] == 0
    assert b"lmfast" not in prometheus_client.generate_latest()
    assert b"process_" not in one.text(0, 0, 12.5)
