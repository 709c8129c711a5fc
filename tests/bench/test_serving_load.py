"""Load on the real server, and what counts as lost, mixed up or growing."""

import json
import sys
from dataclasses import replace

import pytest

from bench import results, serving_load
from bench.serving_clients import Answer
from bench.serving_load import difference, growth, main, metric
from bench.serving_requests import MOST_PROMPT, SHAPE, plan
from bench.serving_run import write_run


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("load") / "run", SHAPE)
    return plan(run, 300, seed=3, kinds=60)


def test_requests_are_of_all_kinds_and_the_same_in_every_run(planned, tmp_path):
    bodies = [one.kind.body for one in planned]
    for name in ("seed", "top_k", "top_p", "stop", "messages", "prompt", "ignore_eos", "logprobs"):
        assert 0 < sum(name in body for body in bodies) < len(bodies), name
    assert {body["n"] for body in bodies} == {1, 2, 3} and {one.stream for one in planned} == {True, False}
    assert max(one.kind.prompt_tokens for one in planned) <= MOST_PROMPT
    leaving = [one.leaving for one in planned]
    assert len(set(leaving)) == 4 and 10 < len(planned) - leaving.count("stays") < 60
    assert {finish for one in planned for finish in one.kind.finishes} == {"stop", "length"}
    assert any("stop" in body and body["stop"] not in "\n\nnot in the text" for body in bodies)
    assert plan(write_run(tmp_path / "run", SHAPE), 300, seed=3, kinds=60) == planned


def test_texts_end_before_the_stop_string(planned):
    cut = [one.kind for one in planned if "stop" in one.kind.body and one.kind.finishes[0] == "stop"]
    assert cut and not any(kind.body["stop"] in text for kind in cut for text in kind.texts)


def answer_of(planned, stream: bool, texts: list[str]) -> Answer:
    """What a server answers, the text of a stream in two events."""
    kind, usage = planned.kind, {"prompt_tokens": planned.kind.prompt_tokens}

    def choice(i: int, text: str, finish: str | None) -> dict:
        field = "text" if "prompt" in kind.body else "delta" if stream else "message"
        return {"index": i, "finish_reason": finish, field: text if field == "text" else {"content": text}}

    if not stream:
        choices = [choice(i, text, finish) for i, (text, finish) in enumerate(zip(texts, kind.finishes))]
        return Answer(200, json.dumps({"choices": choices, "usage": usage}), 0, 0)
    events = []
    for i, (text, finish) in enumerate(zip(texts, kind.finishes)):
        events += [{"choices": [choice(i, text[:1], None)]}, {"choices": [choice(i, text[1:], finish)]}]
    events.append({"choices": [], "usage": usage})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return Answer(200, "".join([*lines, "data: [DONE]\n\n"]), 0, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["prompt", "messages"])
def test_differences_are_found(planned, stream, name):
    one = next(one for one in planned if name in one.kind.body and len(set(one.kind.texts)) > 1)
    one = replace(one, stream=stream)
    texts = one.kind.texts
    assert difference(one, answer_of(one, stream, texts)) == ""
    assert "texts" in difference(one, answer_of(one, stream, texts[1:] + texts[:1]))
    assert "texts" in difference(one, answer_of(one, stream, [texts[0] + "x", *texts[1:]]))
    other = replace(one.kind, finishes=["length" if f == "stop" else "stop" for f in one.kind.finishes])
    assert "finish reasons" in difference(replace(one, kind=other), answer_of(one, stream, texts))
    assert difference(one, Answer(429, "full", 0, 0)) == "status 429: full"


def test_growth_is_that_of_the_second_half():
    rising = [(float(i), 100 + i) for i in range(100)]
    assert growth(rising) == pytest.approx(40, abs=2)
    assert growth([(float(i), min(100 + i, 150)) for i in range(100)]) <= 5
    assert growth([(0.0, 7)]) == 0


def test_metrics_are_summed_over_their_labels():
    lines = [
        "a 1.0",
        "a_b 5",
        'c{endpoint="/x",status="200"} 2',
        'c{endpoint="/y",status="200"} 3',
        'c{endpoint="/x",status="400"} 7',
    ]
    text = "\n".join(lines)
    assert metric(text, "a") == 1 and metric(text, 'c{endpoint="/[xy]",status="200"}') == 5


def test_the_server_answers_all_correctly(tmp_path, monkeypatch, capsys):
    for package in ("starlette", "uvicorn", "pydantic", "prometheus_client"):
        pytest.importorskip(package)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(serving_load, "GROWTH", (1e9, 1e9))  # a server that has just started grows
    output = tmp_path / "l.json"
    words = ["--requests", "80", "--concurrent", "40", "--threads", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["x", *words])
    code = main()
    lost, left, memory = results.read(output).rows
    assert (code, lost.value, left.value) == (0, 0, 0), capsys.readouterr().out
    assert sum(lost.data.values()) == 80 and lost.data["stays"] < 80
    assert len(memory.data["memory"]) > 1


def test_a_wrong_answer_fails(tmp_path, monkeypatch):
    for package in ("starlette", "uvicorn", "pydantic", "prometheus_client"):
        pytest.importorskip(package)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def other(run, count, seed):
        found = plan(run, count, seed)
        wrong = replace(found[0], kind=replace(found[0].kind, texts=["other"] * len(found[0].kind.texts)))
        return [replace(wrong, leaving="stays"), *found[1:]]

    monkeypatch.setattr(serving_load, "plan", other)
    monkeypatch.setattr(
        sys, "argv", ["x", "--requests", "5", "--threads", "1", "--output", str(tmp_path / "l.json")]
    )
    assert main() == 1
    lost = results.read(tmp_path / "l.json").rows[0]
    assert lost.value == 2 and lost.verdict == "WRONG"  # when warming up and then
