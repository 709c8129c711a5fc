"""Compares evaluation with lm-eval's own `hf` backend: `python -m bench.evaluation_table [--quick] [--only ROW …]`.

Both get the same requests of lm-eval: multiple choice (questions of one to three sentences of the built-in stories, with
four answers), rolling (whole stories) and generation (64 tokens after a sentence). hf evaluates the exported run in float32
with transformers at the batch size that is fastest for it, of BATCH_SIZES, chosen per row. Results must be equal before
anything is timed: log-likelihoods within 1e-5 per token, greedy flags and texts exactly. 22.7M parameters, random weights,
on a CPU.

Expected before measuring, from µs per id of one core (lmfast/inference/cpu/scoring.py): multiple choice 4 times as fast,
because contexts are read once, rows are not padded and the head multiplies only the answers; rolling 1.3 to 1.5, as both
compute every id once with the head; generation 3 and more, as in generation_table.

Out: the table, and bench/results/evaluation_<cpu>.json. About three minutes on two cores.
"""

import contextlib
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from bench.generation_table import MODELS
from bench.results import Row
from bench.target_table import compared, measure, parser_of
from bench.timing import in_turns, per_second, seconds
from lmfast import TransformerLM, export_run, load_run, train_bpe
from lmfast.data.stories.corpus import generate_stories
from lmfast.evaluation.task_model import TaskModel
from tests.interop.models import make_run

PEER = "lm-eval hf"
BATCH_SIZES = (1, 4, 16, 64)
NEW = 64  # tokens of a generated text
MUST = {"choice": 2.0, "rolling": 2.0, "generation": 2.0, "all": 2.0}
EXPECTED = {"choice": "4", "rolling": "1.3 to 1.5", "generation": "3", "all": "2.5"}
METHODS = {"choice": "loglikelihood", "rolling": "loglikelihood_rolling", "generation": "generate_until"}
ROWS = (*METHODS, "all")


def make_requests(quick: bool) -> dict[str, list[Instance]]:
    count = 4 if quick else 32
    stories = [story.text for story in itertools.islice(generate_stories(3), count)]
    sentences = [story.replace("\n", " ").split(". ") for story in stories]

    def instances(name: str, arguments: list[tuple]) -> list[Instance]:
        return [Instance(METHODS[name], {}, given, i) for i, given in enumerate(arguments)]

    choices = [
        (". ".join(parts[: 1 + number % 3]) + ".", f" {sentences[(number + other) % count][-1]}")
        for number, parts in enumerate(sentences)
        for other in range(4)
    ]
    options = {"until": ["\n\n\n"], "max_gen_toks": 8 if quick else NEW, "do_sample": False}
    return {
        "choice": instances("choice", choices),
        "rolling": instances("rolling", [(story,) for story in stories]),
        "generation": instances("generation", [(parts[0], options) for parts in sentences[:16]]),
    }


def make_models(place: Path) -> tuple[TaskModel, Callable[[int], HFLM]]:
    """(our model, hf with a batch size), of the same weights."""
    text = "<|endoftext|>".join(story.text for story in itertools.islice(generate_stories(1), 2000))
    (place / "text.txt").write_text(text, encoding="utf-8")
    shape = MODELS["22.7M"]
    tokenizer = train_bpe(place / "text.txt", shape.vocab_size, ["<|endoftext|>"])
    torch.manual_seed(0)
    run = make_run(place / "run", TransformerLM(shape).eval(), tokenizer)
    folder = str(export_run(run, output=place / "hf"))
    model, tokenizer, _ = load_run(run)
    assert tokenizer is not None
    return TaskModel(model, tokenizer), lambda batch: HFLM(
        pretrained=folder, device="cpu", dtype="float32", batch_size=batch
    )


def call(model: Any, name: str, requests: list[Instance]) -> list:
    with contextlib.redirect_stderr(io.StringIO()):  # hf's progress bars
        return getattr(model, METHODS[name])(requests, disable_tqdm=True)


def difference(name: str, model: TaskModel, requests: list[Instance], ours: list, theirs: list) -> str:
    """How the results differ; empty if they are equal."""
    if name == "generation":
        wrong = sum(a != b for a, b in zip(ours, theirs, strict=True))
        return f"{wrong} of {len(ours)} texts differ" if wrong else ""
    for request, a, b in zip(requests, ours, theirs, strict=True):
        (value, *greedy), (expected, *other) = (x if isinstance(x, tuple) else (x,) for x in (a, b))
        bound = 1e-5 * len(model.tok_encode(str(request.args[-1]))) + 1e-6 * abs(expected)
        if abs(value - expected) > bound or greedy != other:
            return f"request {request.idx}: {a} and {b}"
    return ""


def rows(chosen: list[str], quick: bool) -> Iterator[Row]:
    rounds = 2 if quick else 5
    requests = make_requests(quick)
    needed = METHODS if "all" in chosen else [name for name in METHODS if name in chosen]
    with tempfile.TemporaryDirectory() as place:
        model, hf = make_models(Path(place))
        sizes = BATCH_SIZES[-2:] if quick else BATCH_SIZES
        peers, taken, wrong = {batch: hf(batch) for batch in sizes}, {}, ""
        for name in needed:
            given = requests[name]
            ours = call(model, name, given)
            theirs = call(peers[sizes[0]], name, given)
            wrong = difference(name, model, given, ours, theirs)
            if wrong:
                yield Row(name, 0.0, wrong=wrong)
                return
            speed = {
                batch: seconds(lambda peer=peer, name=name, given=given: call(peer, name, given))
                for batch, peer in peers.items()
            }
            best = min(speed, key=speed.__getitem__)
            taken[name] = in_turns(
                {
                    "ours": lambda name=name, given=given: call(model, name, given),
                    PEER: lambda name=name, given=given, best=best: call(peers[best], name, given),
                },
                rounds,
            )
            if name in chosen:
                yield make_row(name, taken[name], len(given), batch=best, seconds_of_batch_sizes=speed)
        if "all" in chosen:
            total = {
                who: [sum(parts) for parts in zip(*(times[who] for times in taken.values()), strict=True)]
                for who in ("ours", PEER)
            }
            yield make_row("all", total, sum(map(len, requests.values())))


def make_row(name: str, times: dict[str, list[float]], count: int, **data: Any) -> Row:
    rates = " against ".join(per_second(taken, count, "requests") for taken in times.values())
    batch = f", hf's batch size {data['batch']}" if data else ""
    row = compared(name, times, f"{rates}{batch}", MUST[name], **data)
    row.predicted = EXPECTED[name]
    return row


def main() -> int:
    parser = parser_of("evaluation_table", __doc__, ROWS)
    parser.add_argument(
        "--quick", action="store_true", help="few requests and rounds: only proves that it works"
    )
    arguments = parser.parse_args()
    suffix = "_quick" if arguments.quick else ""
    found = rows(arguments.only or list(ROWS), arguments.quick)
    return measure("evaluation", found, arguments.output, suffix=suffix, threads=torch.get_num_threads())


if __name__ == "__main__":
    raise SystemExit(main())
