from types import SimpleNamespace

from lmfast.data.chat import ending_ids
from lmfast.settings import TrainSettings, replace_flat
from lmfast.training.pretraining import PROMPTS, pretraining_task
from lmfast.training.token_inputs import open_inputs


def test_the_task_of_two_token_files(corpus):
    calls = []

    def generate(model, prompts, max_tokens, **options):
        calls.append((max_tokens, options["stop_ids"]))
        return [[] for _ in prompts]

    settings = replace_flat(TrainSettings(), {"context_length": 16, "batch_size": 4, "eval_batches": 2})
    settings, inputs = open_inputs(settings, corpus.train, corpus.valid, None, None, print)
    task = pretraining_task(settings, inputs, generate, {"more": 1})
    assert settings.model.vocab_size == 300 and task.tokenizer is inputs.tokenizer
    assert task.batches.step(0).shape == (4, 17) and task.evaluation_tokens == 2 * 4 * 16
    assert task.facts["more"] == 1 and task.facts["train_data"]["tokens"] == len(inputs.train)
    config = SimpleNamespace(context_length=16)
    model = SimpleNamespace(eval=lambda: None, restrict_to=lambda ids: None, config=config)
    text, figures = task.sample(model, 1)
    assert text == "\n\n".join(PROMPTS) and figures["known_words"] > 0.5
    assert calls == [(16, ending_ids(inputs.tokenizer))]
