import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmfast.data.chat import Rendered
from lmfast.data.packing import TOKEN, pack, pack_row
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.objectives import DPO, IGNORE, SFT, NextToken, sequence_log_probs

CPU = torch.device("cpu")


def test_next_token_loss_is_the_sum_over_valid_targets():
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=20, context_length=6, d_model=16, num_layers=1, num_heads=2))
    batch = np.random.default_rng(0).integers(0, 20, (3, 7))
    batch[2, 4:] = IGNORE
    objective = NextToken()
    inputs, targets = objective.tensors(batch, CPU)
    assert inputs.shape == targets.shape == (3, 6) and inputs.min() >= 0
    expected = F.cross_entropy(
        model(inputs).flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORE
    )
    torch.testing.assert_close(objective.loss(model, inputs, targets), expected)
    assert objective.valid_tokens(batch) == 15


def test_z_loss_and_softcap_reach_the_kernel_and_z_loss_only_in_training():
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "context_length": 6, "d_model": 16, "num_layers": 1, "num_heads": 2}
    model = TransformerLM(ModelConfig(**shape, logit_softcap=1.5))
    batch = np.random.default_rng(0).integers(0, 20, (3, 7))
    inputs, targets = NextToken().tensors(batch, CPU)
    logits = model(inputs)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    objective = NextToken(z_loss=0.1)
    torch.testing.assert_close(
        objective.loss(model, inputs, targets), plain + 0.1 * logits.logsumexp(-1).square().sum()
    )
    torch.testing.assert_close(objective.loss(model.eval(), inputs, targets), plain)


MASKED_SHAPES = [
    {},
    {"qk_norm": True, "num_kv_heads": 1},
    {"value_embeddings": True, "parallel_block": True},
    {"position": "none", "norm": "post"},
    {"position": "learned"},
    {"position": "sinusoidal", "parallel_block": True},
]


@pytest.mark.parametrize("changes", MASKED_SHAPES, ids=str)
def test_a_masked_row_trains_like_its_documents_one_by_one(changes):
    """Loss and gradients in float64: [separator, document] predicts [document, separator]."""
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "context_length": 40, "d_model": 16, "num_layers": 2, "num_heads": 2}
    model = TransformerLM(ModelConfig(**shape, **changes)).double()
    rng, separator = np.random.default_rng(0), 7
    documents = [rng.choice([i for i in range(20) if i != separator], n) for n in (5, 1, 12, 9)]
    row = np.concatenate([part for document in documents for part in ([separator], document)] + [[separator]])
    # A row cut anywhere begins and ends inside documents.
    whole, cut = row[None], row[None, 3:-4]
    singles = [np.array([[separator, *document, separator]]) for document in documents]
    cut_singles = [cut[:, :4], *singles[1:-1], cut[:, -7:]]
    masked = NextToken(separator=separator)
    for rows, parts in ((whole, singles), (cut, cut_singles)):
        assert masked.valid_tokens(rows) == sum(map(NextToken().valid_tokens, parts))
        loss, gradients = loss_and_gradients(model, masked, [rows])
        expected_loss, expected = loss_and_gradients(model, NextToken(), parts)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6, msg=name)
        assert not torch.isclose(loss_and_gradients(model, NextToken(), [rows])[0], expected_loss, rtol=1e-3)


def test_a_separator_as_input_begins_the_next_document():
    batch = np.array([[4, 9, 5, 5, 9, 9, 3], [9, 1, 2, 9, IGNORE, IGNORE, IGNORE]])
    _, targets, positions, documents = NextToken(separator=9).tensors(batch, CPU)
    assert documents.tolist() == [[0, 1, 1, 1, 2, 3], [1, 1, 1, 2, 2, 2]]
    assert positions is None and targets.tolist() == batch[:, 1:].tolist()
    assert NextToken(separator=9).valid_tokens(batch) == 6 + 3


def packed_and_single(lengths, vocab_size: int = 20, capacity: int = 24):
    """Random documents packed into rows, and the same documents in separate rows."""
    rng = np.random.default_rng(0)
    documents = [
        Rendered(rng.integers(0, vocab_size, n).astype(np.int32), rng.random(n) < 0.6) for n in lengths
    ]
    return pack(documents, capacity, 0), [pack([document], len(document.ids), 0) for document in documents]


def loss_and_gradients(model, objective, batches):
    model.zero_grad()
    total = sum(objective.loss(model, *objective.tensors(batch, CPU)) for batch in batches)
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": True, "num_kv_heads": 1},
        {"value_embeddings": True},
        {"position": "learned"},
        {"position": "sinusoidal"},
    ],
    ids=str,
)
def test_a_packed_row_trains_like_its_documents_one_by_one(changes):
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "context_length": 24, "d_model": 16, "num_layers": 2, "num_heads": 2}
    model = TransformerLM(ModelConfig(**shape, **changes))
    packed, single = packed_and_single([9, 7, 12, 5, 3, 8])
    assert len(packed) == 2 and SFT().valid_tokens(packed) == sum(map(SFT().valid_tokens, single)) > 10
    loss, gradients = loss_and_gradients(model, SFT(), [packed])
    expected_loss, expected = loss_and_gradients(model, SFT(), single)
    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    # The test detects documents that are not separated, and positions that are not reset.
    inputs, targets, positions, _ = SFT().tensors(packed, CPU)
    assert not torch.isclose(SFT().loss(model, inputs, targets, positions), expected_loss, rtol=1e-4)


def test_sft_gives_loss_to_masked_tokens_only():
    document = Rendered(np.array([5, 6, 7, 8], np.int32), np.array([False, False, True, True]))
    inputs, targets, positions, documents = SFT().tensors(pack([document, document], 10, 3), CPU)
    assert inputs.tolist() == [[5, 6, 7, 8, 5, 6, 7, 8, 3]]
    assert targets.tolist() == [[IGNORE, 7, 8, IGNORE, IGNORE, 7, 8, IGNORE, IGNORE]]
    assert positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0]]
    assert documents.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 2]]


def pairs_of(objective, log_probs, reference, lengths=(2, 2, 2, 2)):
    targets = torch.full((4, 3), IGNORE)
    for row, length in enumerate(lengths):
        targets[row, :length] = 1
    return objective.pairs(torch.tensor(log_probs), torch.tensor(reference), targets)


def test_dpo_losses_by_hand():
    # Two pairs (chosen, rejected, chosen, rejected): gains (2, -1) and (-3, 1), margins 3 and -4.
    log_probs, reference = [-4.0, -9.0, -8.0, -5.0], [-6.0, -8.0, -5.0, -6.0]
    losses, numbers = pairs_of(DPO(beta=0.5), log_probs, reference)
    # -log σ(1.5) = log(1 + e^-1.5), -log σ(-2) = log(1 + e^2)
    torch.testing.assert_close(losses, torch.tensor([0.2014133, 2.1269280]))
    expected = {
        "rewards/chosen": [1.0, -1.5],
        "rewards/rejected": [-0.5, 0.5],
        "rewards/accuracies": [1.0, 0.0],
        "rewards/margins": [1.5, -2.0],
        "logps/chosen": [-4.0, -8.0],
        "logps/rejected": [-9.0, -5.0],
    }
    for name, row in zip(DPO.NAMES, numbers, strict=True):
        assert row.tolist() == expected[name], name
    # Conservative DPO: 0.9 · 0.2014133 + 0.1 · log(1 + e^1.5), 0.9 · 2.1269280 + 0.1 · log(1 + e^-2)
    losses, _ = pairs_of(DPO(beta=0.5, label_smoothing=0.1), log_probs, reference)
    torch.testing.assert_close(losses, torch.tensor([0.3514133, 1.9269280]))
    # IPO: (3 - 1)², (-4 - 1)²
    losses, _ = pairs_of(DPO(beta=0.5, loss_type="ipo"), log_probs, reference)
    assert losses.tolist() == [4.0, 25.0]
    # Means over 2, 1, 3 and 2 tokens: gains 1, -1, -1, 0.5, margins 2, -1.5
    losses, numbers = pairs_of(DPO(beta=0.5, length_normalised=True), log_probs, reference, (2, 1, 3, 2))
    torch.testing.assert_close(losses, torch.tensor([0.3132617, 1.1368710]))
    torch.testing.assert_close(numbers[4], torch.tensor([-2.0, -8 / 3]))


@pytest.fixture(scope="module")
def trl_loss(tmp_path_factory):
    """(our model, its reference, pairs of (prompt, chosen, rejected) ids, DPOConfig's settings) → TRL's loss, the
    gradient of its embedding table, and its metrics."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from bench.huggingface import llama

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "<eos>": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])

    def loss(model, reference, pairs, **settings):
        options = {"report_to": [], "use_cpu": True, "bf16": False, "disable_dropout": False} | settings
        trainer = trl.DPOTrainer(
            llama(model), llama(reference), trl.DPOConfig(str(tmp_path_factory.mktemp("trl")), **options),
            train_dataset=rows, processing_class=words,
        )  # fmt: skip
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        inputs = trainer.data_collator([dict(zip(names, pair, strict=True)) for pair in pairs])
        value = trainer.compute_loss(trainer.model.train(), inputs)
        value.backward()
        metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
        return value.detach(), trainer.model.model.embed_tokens.weight.grad, metrics

    return loss


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        # Of one pair alone, TRL's aot is the sigmoid loss with its conservative form's smoothing.
        ({"label_smoothing": 0.2}, {"loss_type": ["aot"], "label_smoothing": 0.2}),
        ({"length_normalised": True}, {"loss_type": ["sigmoid_norm"]}),
        ({"loss_type": "ipo", "length_normalised": True}, {"loss_type": ["ipo"]}),
    ],
)
def test_dpo_equals_trls(trl_loss, ours, theirs, record_property):
    """Two models of the same weights on both sides: loss, gradient and metrics of each pair are equal."""
    shape = {"vocab_size": 20, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 2}
    torch.manual_seed(0)
    model, reference = TransformerLM(ModelConfig(**shape)), TransformerLM(ModelConfig(**shape))
    rng = np.random.default_rng(2)
    largest = 0.0
    for lengths in ((3, 4, 7), (1, 6, 2), (5, 3, 3)):
        prompt, *answers = (rng.integers(0, 20, n).tolist() for n in lengths)
        rows = [Rendered(np.array(prompt + a), np.arange(len(prompt + a)) >= len(prompt)) for a in answers]
        batch = np.stack([pack_row([row], 16, 0) for row in rows])
        objective = DPO(beta=0.3, **ours)
        inputs, targets, _ = objective.tensors(batch, CPU)
        with torch.no_grad():
            batch["reference"] = sequence_log_probs(reference, inputs, targets).numpy()[:, None]
        model.zero_grad()
        loss = objective.loss(model.train(), *objective.tensors(batch, CPU))
        loss.backward()
        value, gradient, metrics = trl_loss(model, reference, [(prompt, *answers)], beta=0.3, **theirs)
        torch.testing.assert_close(loss.detach(), value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.embedding.weight.grad, gradient, rtol=1e-4, atol=1e-6)
        largest = max(largest, float((loss.detach() - value).abs()))
        if not objective.length_normalised:  # here TRL's rewards and log-probabilities are still sums
            for name, number in objective.read_metrics().items():
                assert metrics[name] == pytest.approx(number, rel=1e-4, abs=1e-6), name
    record_property("largest_difference", largest)


def preference_batch(vocab_size=20, pairs=3):
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(2 * pairs):
        n = int(rng.integers(4, 9))
        loss = np.arange(n) >= 3
        rows.append(pack_row([Rendered(rng.integers(0, vocab_size, n).astype(np.int32), loss)], 9, 0))
    return np.stack(rows)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_sequence_log_probs_are_sums_over_the_answers_tokens(softcap):
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "context_length": 8, "d_model": 16, "num_layers": 1, "num_heads": 2}
    model = TransformerLM(ModelConfig(**shape, logit_softcap=softcap))
    batch = preference_batch()
    inputs, targets, _ = DPO().tensors(batch, CPU)
    found = sequence_log_probs(model, inputs, targets)
    log_probs = model(inputs).log_softmax(-1)
    for row in range(len(batch)):
        expected = sum(
            log_probs[row, at, batch["id"][row, at + 1]] for at in range(8) if batch["loss"][row, at + 1]
        )
        torch.testing.assert_close(found[row], expected)


def test_dpo_starts_at_log_2_records_rewards_and_descends():
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=20, context_length=8, d_model=16, num_layers=1, num_heads=2))
    batch, objective = preference_batch(), DPO(beta=0.5)
    with torch.no_grad():
        inputs, targets, _ = objective.tensors(batch, CPU)
        batch["reference"] = sequence_log_probs(model, inputs, targets).numpy()[:, None]
    assert objective.valid_tokens(batch) == 3 and objective.read_metrics() == {}
    loss = objective.loss(model.train(), *objective.tensors(batch, CPU))
    torch.testing.assert_close(loss, torch.tensor(3 * math.log(2)))
    assert objective.read_metrics()["rewards/margins"] == pytest.approx(0, abs=1e-5)
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.05 * weight.grad
    objective.loss(model, *objective.tensors(batch, CPU))
    found = objective.read_metrics()
    assert found["rewards/margins"] > 0.01
    assert found["rewards/margins"] == pytest.approx(
        found["rewards/chosen"] - found["rewards/rejected"], abs=1e-5
    )
    objective.loss(model.eval(), *objective.tensors(batch, CPU))
    assert objective.read_metrics() == {}  # evaluation records nothing


@pytest.mark.parametrize(
    ("objective", "dtype", "number"), [(NextToken(), np.int64, 1), (SFT(), TOKEN, 4), (DPO(), TOKEN, 3)]
)
def test_no_objective_waits_for_a_cuda_device(objective, dtype, number, monkeypatch):
    """Tensors are pinned before they are copied, and copied without waiting."""
    pinned, copies = set(), []

    def pin_memory(tensor):
        copy = tensor.clone()
        pinned.add(copy.data_ptr())
        return copy

    def to(tensor, device, non_blocking=False):
        copies.append((device.type, tensor.data_ptr() in pinned, non_blocking))
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    objective.tensors(np.zeros((2, 7), dtype), torch.device("cuda"))
    assert copies == [("cuda", True, True)] * number
