"""Runs whose greedy texts are printable, and can be opened like any other."""

import pytest

from bench.serving_offline import GREEDY, Offline
from bench.serving_run import random_prompts, text_ids, text_model, text_tokenizer, write_run
from lmfast.inference.decode import continue_prompts
from lmfast.model.config import ModelConfig

SHAPE = ModelConfig(400, 64, d_model=32, num_layers=1, num_heads=2, d_ff=40)


def test_greedy_texts_are_printable_and_round_trip(tmp_path):
    run = write_run(tmp_path / "runs/x", SHAPE)
    with Offline(run, threads=1) as offline:
        assert offline.tokenizer.vocab_size == SHAPE.vocab_size
        prompts = random_prompts(offline.tokenizer, 4, 8, seed=1)
        found = offline.generate(prompts, 40)
        assert [offline.first_id(prompt) for prompt in prompts] == [row[0] for row in found]
        assert found == continue_prompts(text_model(SHAPE), prompts, 40, GREEDY)
        texts = [offline.tokenizer.decode(row) for row in prompts + found]
    assert all(text.isascii() and text.isprintable() for text in texts)
    assert set().union(*found) <= set(text_ids(offline.tokenizer))


@pytest.mark.parametrize("vocab_size", [400, 4096, 10_000])
def test_the_tokenizer_has_as_many_ids_as_the_model(vocab_size):
    tokenizer = text_tokenizer(vocab_size)
    assert tokenizer.vocab_size == vocab_size
    ids = text_ids(tokenizer)
    assert len(set(ids)) == len(ids) == 95 + len(tokenizer.merges)
    assert tokenizer.decode(ids).isprintable()
    assert random_prompts(tokenizer, 2, 5, 0) != random_prompts(tokenizer, 2, 5, 1)


def test_a_head_that_is_the_embedding_is_rejected():
    with pytest.raises(ValueError, match="tie_embeddings False"):
        text_model(ModelConfig(400, 64, d_model=32, num_layers=1, num_heads=2, d_ff=40, tie_embeddings=True))
