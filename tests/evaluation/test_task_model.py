"""Our model on lm-eval's tasks, compared with lm-eval's own hf backend on the exported run."""

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance

from lmfast import Tokenizer, export_run, load_run
from lmfast.data.chat import add_chat_tokens, render, render_prompt
from lmfast.data.chat_records import Message
from lmfast.errors import UserError
from lmfast.evaluation.task_model import TaskModel
from lmfast.evaluation.tasks import load_tasks, run_tasks
from lmfast.inference.torch_scoring import TorchScorer
from tests.evaluation.conftest import NAMES
from tests.interop.models import SMALL, make_run, random_model, tokenizer

LONG = "the cat sat on the mat " * 12  # four contexts


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]  # pyright: ignore


@pytest.fixture
def model(task_run) -> TaskModel:
    return TaskModel(*load_run(task_run)[:2])


def test_log_likelihoods(model):
    """Of the ids after the context, with trailing spaces of the context moved; <|endoftext|> where it is empty."""
    pairs = [("the cat", " sat"), ("the cat ", "sat"), ("", "the"), (LONG, " sat")]
    found = model.loglikelihood(requests("loglikelihood", *pairs))
    encode = model.text_tokenizer.encode
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        text = (context or "<|endoftext|>") + continuation
        ids = torch.tensor(encode(text)[-65:])
        count = len(encode(text)) - len(encode((context or "<|endoftext|>").rstrip()))
        with torch.inference_mode():
            logprobs = model.model(ids[None, :-1])[0].log_softmax(-1)[-count:]
        assert value == pytest.approx(float(logprobs.gather(1, ids[-count:, None]).sum()), abs=1e-4)
        assert greedy == bool((logprobs.argmax(-1) == ids[-count:]).all())
    assert found[0] == found[1]
    assert model.shortened == 1 and model.requests == 4


def test_greedy_continuations_are_greedy(model):
    context = "the cat"
    model.model.unused_ids = (
        None  # scores count all ids, as hf's do; generated texts have only the tokenizer's
    )
    ids = model.model.generate(model.tok_encode(context), 3, temperature=0.0)
    (_, greedy), (_, other) = model._score(
        [(model.tok_encode(context), ids), (model.tok_encode(context), [*ids[:2], ids[2] ^ 1])]
    )
    assert greedy and not other


def test_rolling_log_likelihoods_cover_every_token_once(model):
    """A text of a few contexts has the sum over windows, each of which sees as much of the text as fits."""
    (value, empty) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (LONG,), ("",)))
    ids = model.tok_encode(LONG)
    total = 0.0
    for begin in range(0, len(ids), 64):
        end = min(begin + 64, len(ids))
        window = ids[max(0, end - 65) : end] if begin else [model.eot_token_id, *ids[:end]]
        inputs, targets = torch.tensor(window[:-1]), torch.tensor(window[1:])
        with torch.inference_mode():
            logprobs = model.model(inputs[None])[0].double().log_softmax(-1).gather(1, targets[:, None])
        total += float(logprobs[-(end - begin) :].sum())
    assert value == pytest.approx(total, abs=1e-4 * len(ids) / 10) and empty == 0.0


def test_generated_texts_stop(model):
    """Texts are those of greedy decoding, up to the first stop string, in any order of requests."""
    contexts = ["the cat", "the cat sat", LONG, ""]
    options = {"until": ["\n\n\n"], "max_gen_toks": 12}
    found = model.generate_until(requests("generate_until", *((c, options) for c in contexts)))
    for context, text in zip(contexts, found, strict=True):
        ids = (model.tok_encode(context) or [258])[-52:]
        new = model.model.generate(ids, 12, temperature=0.0, stop_ids=[258])
        assert text == model.text_tokenizer.decode(new)
    stop = found[0][3:5]
    (cut,) = model.generate_until(requests("generate_until", (contexts[0], {**options, "until": [stop]})))
    assert cut == found[0].split(stop)[0]
    assert model.capped_at is None
    model.generate_until(requests("generate_until", ("the", {"until": ["."]})))
    assert model.capped_at == 32


def test_continuations_longer_than_the_context_are_rejected(model):
    with pytest.raises(UserError, match="more than the context of 64"):
        model.loglikelihood(requests("loglikelihood", ("the", LONG)))


def test_other_precisions_generate_with_torch(model):
    arguments = [("the cat", {"until": ["."], "max_gen_toks": 5})] * 2
    with torch.autocast("cpu", torch.bfloat16):
        other = TaskModel(model.model, model.text_tokenizer)
        assert isinstance(other.scorer, TorchScorer)
        first, second = other.generate_until(requests("generate_until", *arguments))
    assert first == second


def test_unknown_generation_options_are_rejected(model):
    with pytest.raises(UserError, match="num_beams: 4"):
        model.generate_until(requests("generate_until", ("the", {"num_beams": 4})))


def test_chat_texts_have_the_ids_of_training():
    chat = add_chat_tokens(tokenizer())
    model = TaskModel(random_model(SMALL), chat)
    history = [
        Message("system", "Be kind."),
        Message("user", "abab"),
        Message("assistant", " the"),
        Message("user", "?"),
    ]
    texts = [{"role": message.role, "content": message.content} for message in history]
    assert model.tok_encode(model.apply_chat_template(texts)) == render_prompt(history, chat)
    opened = model.apply_chat_template(texts[:3], add_generation_prompt=False)
    assert model.tok_encode(opened) == render(history[:3], chat).ids.tolist()[:-1]
    with pytest.raises(UserError, match="special token"):
        model.apply_chat_template([{"role": "user", "content": "<|end|>"}])
    with pytest.raises(UserError, match="'tool'"):
        model.apply_chat_template([{"role": "tool", "content": ""}])


def test_a_base_model_has_no_chat_template(model):
    with pytest.raises(UserError, match="not a chat model"):
        model.chat_template(True)


def test_a_tokenizer_without_the_document_end_is_rejected(model):
    with pytest.raises(UserError, match="endoftext"):
        TaskModel(model.model, Tokenizer({i: bytes([i]) for i in range(256)}, []))


def compare(ours: dict, theirs: dict, tokens_of) -> None:
    """Equal results; log-likelihoods within 1e-5 per token and float32's rounding of a sum."""
    for name in ours["samples"]:
        for own, other in zip(ours["samples"][name], theirs["samples"][name], strict=True):
            for request, a, b in zip(
                own["arguments"], own["filtered_resps"], other["filtered_resps"], strict=True
            ):
                if isinstance(a, str):
                    assert a == b
                    continue
                value, expected = (x[0] if isinstance(x, tuple | list) else x for x in (a, b))
                assert abs(value - expected) <= 1e-5 * tokens_of(request) + 1e-6 * abs(expected)
                if isinstance(a, tuple | list):
                    assert a[1] == b[1]
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float | np.floating):
                assert ours["results"][name][metric] == pytest.approx(value, rel=1e-4), metric


def run_and_folder(place, changes: dict, own_tokenizer: Tokenizer) -> tuple:
    """(our model on tasks, lm-eval's of the exported run)."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    run = make_run(place / "run", random_model(dataclasses.replace(SMALL, **changes)), own_tokenizer)
    model, own_tokenizer, _ = load_run(run)
    folder = str(export_run(run, output=place / "hf"))
    return TaskModel(model, own_tokenizer), huggingface.HFLM(
        pretrained=folder, device="cpu", dtype="float32", batch_size=3
    )


@pytest.mark.parametrize(
    "changes", [{}, {"qk_norm": True}, {"num_heads": 8, "tie_embeddings": True}], ids=str
)
@pytest.mark.parametrize("shots", [0, 2])
def test_results_are_those_of_hf(changes, shots, tmp_path, task_folder):
    ours, theirs = run_and_folder(tmp_path, changes, tokenizer())

    def found(evaluated) -> dict:
        return run_tasks(evaluated, load_tasks(NAMES, str(task_folder), shots), log_samples=True)

    def tokens_of(request) -> int:
        return len(ours.tok_encode(request[-1]))

    expected = found(theirs)
    compare(found(ours), expected, tokens_of)
    ours.scorer = TorchScorer(ours.model)
    compare(found(ours), expected, tokens_of)


def test_chat_results_are_those_of_hf(tmp_path, task_folder):
    ours, theirs = run_and_folder(tmp_path, {"context_length": 256}, add_chat_tokens(tokenizer()))

    def found(evaluated) -> dict:
        names = [NAMES[0], NAMES[2]]
        tasks = load_tasks(names, str(task_folder), 2)
        return run_tasks(evaluated, tasks, apply_chat_template=True, log_samples=True)

    own, other = found(ours), found(theirs)
    assert "<|assistant|>" in own["samples"][NAMES[0]][0]["arguments"][0][0]
    for name in (NAMES[0], NAMES[2]):
        for a, b in zip(own["samples"][name], other["samples"][name], strict=True):
            assert a["arguments"] == b["arguments"]
    compare(own, other, lambda request: len(ours.tok_encode(request[-1])))
