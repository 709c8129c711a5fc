import pytest

pytest.importorskip("lm_eval")
from lmfast.errors import UserError
from lmfast.evaluation import generating
from lmfast.evaluation.generating import Continuations, parse_options
from lmfast.inference.batching import StopFinder
from lmfast.inference.sampling import Sampling
from tests.interop.models import SMALL, random_model, tokenizer


def test_options():
    options = parse_options({"until": ["."], "max_gen_toks": 20, "do_sample": False, "num_beams": 1}, 64)
    assert (options.max_tokens, options.until, options.capped) == (20, (".",), False)
    assert options.sampling == Sampling(0.0)
    sampled = parse_options({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5}, 64).sampling
    assert sampled == Sampling(0.7, 5, 0.9)
    assert parse_options({"until": "\n"}, 1024).max_tokens == 256  # lm-eval's default


def test_texts_as_long_as_the_context_are_capped():
    options = parse_options({}, 64)
    assert options.max_tokens == 32 and options.capped
    assert not parse_options({"max_gen_toks": 63}, 64).capped


@pytest.mark.parametrize("given", [{"num_beams": 2}, {"max_gen_toks": 0}, {"no_such_option": 1}])
def test_options_that_cannot_be_followed_are_rejected(given):
    with pytest.raises(UserError, match=next(iter(given)) if "max_gen_toks" not in given else "generates 0"):
        parse_options(given, 64)


def test_stop_strings_are_found_across_ids():
    stops = StopFinder(tokenizer().vocab, ("abc", "", "é"))
    assert [stops(token) for token in (97, 256, 99)] == [False, False, True]  # a, ab, c
    stops = StopFinder(tokenizer().vocab, ("abc", "é"))
    assert [stops(byte) for byte in "xé".encode()] == [False, False, True]
    assert not any(StopFinder(tokenizer().vocab, ())(token) for token in (97, 256))


def test_texts_do_not_depend_on_the_others(monkeypatch):
    model, count = random_model(SMALL), []
    model.restrict_to(tokenizer().vocab)
    contexts = [[1, 2, 3], [1, 2, 3, 4], [9], list(range(60))]
    options = [parse_options({"max_gen_toks": n, "until": []}, 64) for n in (5, 20, 1, 30)]

    def texts(order) -> dict[int, str]:
        wanted = Continuations(model, tokenizer())
        for i in order:
            wanted.add(contexts[i], options[i])
        assert wanted.shortened == (3 in order)
        return dict(zip(order, wanted.run(count.append), strict=True))

    together = texts([0, 1, 2, 3])
    assert sum(count) == 4
    monkeypatch.setattr(generating, "MAX_SLOTS", 1)
    assert texts([3, 1, 0, 2]) == together
    assert texts([2])[2] == together[2]
    assert Continuations(model, tokenizer()).run(count.append) == []
