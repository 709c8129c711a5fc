import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmfast import load_run
from lmfast.errors import UserError
from lmfast.evaluate import EvaluateSettings, evaluate_run
from lmfast.sft import main, sft
from lmfast.train import train
from lmfast.training.run_folder import read_facts, read_metrics
from tests.training.forked_runs import close, finish, start_ranks

FLAGS = "--held-out 4 --warmup-iters 1 --lr 1e-2 --log-interval 1 --eval-interval 2 --device cpu".split()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """24 instructions with very short answers, for a model with a context of 16 tokens."""
    path = tmp_path_factory.mktemp("sft") / "records.json"
    path.write_text(json.dumps([{"instruction": f"a{i}", "output": "b"} for i in range(24)]))
    return path


def weights(folder):
    return load_run(folder)[0].named_weights()


def test_a_base_model_learns_to_answer_and_to_stop(trained_run, records, tmp_path, capsys):
    from lmfast.data.chat import render_prompt
    from lmfast.data.chat_records import Message

    out = tmp_path / "sft"
    flags = [*FLAGS, "--init-from", str(trained_run), "--train-data", str(records), "--out-dir", str(out)]
    assert sft([*flags, "--max-iters", "30", "--batch-size", "8", "--sample-interval", "30"])
    model, tokenizer, config = load_run(out)
    before = load_run(trained_run)[2]
    assert config.vocab_size == before.vocab_size + 4 == tokenizer.vocab_size
    losses = [line["val_loss"] for line in read_metrics(out) if "val_loss" in line]
    assert losses[-1] < 0.25 * losses[0]
    prompt = render_prompt([Message("user", "a99")], tokenizer)
    end = tokenizer.special_tokens["<|end|>"]
    assert tokenizer.decode(model.generate(prompt, 8, temperature=0.0, stop_ids={end})) == "b"
    facts = read_facts(out)
    assert facts["stage"] == "sft" and len(facts["held_out"]) == 4
    assert facts["train_data"]["conversations"] == 20
    assert "assistant: b" in (out / "samples" / "step_00000030.txt").read_text()
    assert "20 conversations in 12 rows of 17 tokens" in capsys.readouterr().out


def test_new_embedding_rows_are_near_the_mean_and_old_rows_unchanged(trained_run):
    from lmfast.model.transformer import TransformerLM
    from lmfast.training.checkpoint import find_checkpoint
    from lmfast.training.loading import load_weights

    base, _, config = load_run(trained_run)
    grown = TransformerLM(type(config)(**{**config.__dict__, "vocab_size": config.vocab_size + 4}))
    load_weights(grown, find_checkpoint(trained_run), may_grow=True)
    for name in ("embedding.weight", "head.weight"):
        old, new = base.named_weights()[name], grown.named_weights()[name]
        torch.testing.assert_close(new[:-4], old)
        assert ((new[-4:] - old.mean(0)).abs() < 0.5 * old.std(0)).all()
        assert len(torch.unique(new[-4:], dim=0)) == 4
    with pytest.raises(UserError, match=r"another model shape: embedding\.weight"):
        load_weights(grown, find_checkpoint(trained_run))


@pytest.fixture(scope="module")
def learned_run(corpus, tmp_path_factory):
    """A base model with learned positions."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    return train_briefly(corpus, folder, "--position", "learned")


def train_briefly(corpus, folder, *flags):
    tokenizer = ("--tokenizer", str(corpus.tokenizer))
    assert train([*corpus.flags(), *tokenizer, "--max-iters", "3", *flags, "--out-dir", str(folder)])
    return folder


def test_learned_positions_are_kept_while_the_vocabulary_grows(learned_run, records, tmp_path):
    flags = [*FLAGS, "--init-from", str(learned_run), "--train-data", str(records)]
    assert sft([*flags, "--max-iters", "1", "--lr", "1e-9", "--out-dir", str(tmp_path / "sft")])
    before, after = weights(learned_run), weights(tmp_path / "sft")
    name = "position_embedding.weight"
    assert after[name].shape == (16, 16)
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-7)
    assert len(after["embedding.weight"]) == len(before["embedding.weight"]) + 4


@pytest.mark.parametrize("length", [12, 20])
def test_learned_positions_keep_their_context_length(learned_run, records, tmp_path, length):
    out = ["--out-dir", str(tmp_path / "sft"), "--context-length", str(length), "--train-data", str(records)]
    with pytest.raises(
        UserError, match=f"learned positions for context_length 16, not {length}; use --context"
    ):
        sft([*FLAGS, *out, "--init-from", str(learned_run), "--max-iters", "1"])
    assert not (tmp_path / "sft").exists()


def test_a_table_of_positions_does_not_grow_with_the_vocabulary(learned_run):
    from lmfast.model.transformer import TransformerLM
    from lmfast.training.checkpoint import find_checkpoint
    from lmfast.training.loading import load_weights

    longer = TransformerLM(replace(load_run(learned_run)[2], context_length=20))
    with pytest.raises(UserError, match=r"position_embedding\.weight is \(16, 16\), not \(20, 16\)"):
        load_weights(longer, find_checkpoint(learned_run), may_grow=True)


def test_sinusoidal_positions_may_change_their_context_length(corpus, records, tmp_path):
    run = train_briefly(corpus, tmp_path / "run", "--position", "sinusoidal")
    out = ["--out-dir", str(tmp_path / "sft"), "--context-length", "20", "--train-data", str(records)]
    assert sft([*FLAGS, *out, "--init-from", str(run), "--max-iters", "1"])
    assert load_run(tmp_path / "sft")[0].sinusoids.shape == (20, 16)


def test_one_times_eight_is_eight_times_one(trained_run, records, tmp_path):
    # Answers of different lengths: a mean of means would weight their tokens unequally.
    path = tmp_path / "uneven.json"
    talks = [{"instruction": f"a{i}", "output": "b" * (1 + i % 5)} for i in range(24)]
    path.write_text(json.dumps(talks))
    flags = [
        *FLAGS,
        "--init-from",
        str(trained_run),
        "--train-data",
        str(path),
        "--max-iters",
        "3",
        "--no-packing",
    ]
    for name, cut in (("whole", (8, 1)), ("cut", (1, 8))):
        sizes = ["--batch-size", str(cut[0]), "--grad-accumulation", str(cut[1])]
        assert sft([*flags, *sizes, "--out-dir", str(tmp_path / name)])
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)
    losses = [[m["train_loss"] for m in read_metrics(tmp_path / name)] for name in ("whole", "cut")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("precision", [[], ["--fp16"]], ids=str)
def test_a_stopped_run_resumes_to_the_same_weights(trained_run, records, tmp_path, precision):
    flags = [*FLAGS, "--init-from", str(trained_run), "--train-data", str(records), "--batch-size", "4"]
    flags += ["--lr-decay-iters", "6", *precision]
    assert sft([*flags, "--max-iters", "6", "--out-dir", str(tmp_path / "whole")])
    assert sft([*flags, "--max-iters", "3", "--out-dir", str(tmp_path / "parts")])
    assert sft(["--max-iters", "6", "--out-dir", str(tmp_path / "parts")])
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")
@pytest.mark.parametrize(
    "parallel", [("--parallel", "ddp"), ("--parallel", "fsdp"), ("--tensor-parallel", "2")]
)
def test_two_ranks_equal_one_and_only_the_first_prints(trained_run, records, tmp_path, parallel):
    flags = [*FLAGS, "--init-from", str(trained_run), "--train-data", str(records), "--max-iters", "4"]
    flags += ["--batch-size", "4", "--grad-accumulation", "2", "--sample-interval", "4"]
    assert sft([*flags, "--out-dir", str(tmp_path / "one")])
    two = [*flags, "--out-dir", str(tmp_path / "two"), *parallel]
    texts = finish(start_ranks(two, tmp_path / "log", command="sft"), tmp_path / "log")
    assert "20 conversations in 12 rows" in texts[0] and "2 × " in texts[0] and texts[1] == ""
    close(weights(tmp_path / "one"), weights(tmp_path / "two"))
    for a, b in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        for name in a.keys() - {"seconds", "tokens_per_second", "mfu"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    # One process resumes the run of two ranks; an error is reported once.
    assert sft(["--max-iters", "5", "--tensor-parallel", "1", "--out-dir", str(tmp_path / "two")])
    wrong = [*flags, "--format", "sharegpt", "--out-dir", str(tmp_path / "wrong")]
    texts = finish(start_ranks(wrong, tmp_path / "log2", command="sft"), tmp_path / "log2", (2, 2))
    assert "record 1 has no conversations" in texts[0] and texts[1] == ""
    assert not (tmp_path / "wrong").exists()


def test_epochs_set_the_length_of_training(trained_run, records, tmp_path):
    flags = [*FLAGS, "--init-from", str(trained_run), "--train-data", str(records), "--batch-size", "8"]
    assert sft([*flags, "--epochs", "1.5", "--no-packing", "--out-dir", str(tmp_path / "sft")])
    assert read_metrics(tmp_path / "sft")[-1]["step"] == 4  # 1.5 epochs of 20 rows, 8 per step
    assert sft(["--out-dir", str(tmp_path / "sft"), "--epochs", "2.5"])
    assert read_metrics(tmp_path / "sft")[-1]["step"] == 7


def test_with_a_validation_file_all_records_are_for_training(trained_run, records, tmp_path):
    flags = [*FLAGS, "--init-from", str(trained_run), "--train-data", str(records), "--max-iters", "2"]
    assert sft([*flags, "--val-data", str(records), "--out-dir", str(tmp_path / "sft")])
    facts = read_facts(tmp_path / "sft")
    assert facts["held_out"] == [] and facts["train_data"]["conversations"] == 24
    assert "val_loss" in read_metrics(tmp_path / "sft")[-1]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--held-out", "24"], "only 24 distinct prompts"),
        (["--epochs", "0"], "epochs is 0.0"),
        (["--d-model", "32"], "another model shape: d_model"),
        (["--tokenizer", "x"], "remove --tokenizer"),
        (["--document-mask"], "document_mask is only for train"),
        (["--bf16", "--fp16"], "bf16 and fp16 are both set"),
        (["--context-length", "3"], "no record has an answer within 3 tokens"),
        (["--format", "sharegpt"], "record 1 has no conversations"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_files(trained_run, records, tmp_path, extra, message, capsys):
    out = tmp_path / "sft"
    flags = ["--init-from", str(trained_run), "--train-data", str(records), "--out-dir", str(out)]
    with pytest.raises(SystemExit) as exit:
        main([*FLAGS, *flags, *extra])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and error.count("\n") == 1
    assert not out.exists()


def test_a_run_of_another_stage_is_not_resumed(trained_run, records, tmp_path, capsys):
    with pytest.raises(UserError, match=r"is a run of lmfast train"):
        sft(["--out-dir", str(trained_run)])
    with pytest.raises(UserError, match="init_from is not set"):
        sft(["--out-dir", str(tmp_path / "new")])
    out = tmp_path / "sft"
    flags = ["--init-from", str(trained_run), "--train-data", str(records), "--max-iters", "1"]
    assert sft([*FLAGS, *flags, "--out-dir", str(out)])
    with pytest.raises(UserError, match=r"is a run of lmfast sft; resume it with that command"):
        train(["--out-dir", str(out)])
    # It was not trained on a token file: lmfast.evaluate reads the records, and has no known words for its texts.
    found = evaluate_run(EvaluateSettings(str(out), samples=1, max_tokens=4, device="cpu"))
    assert "loss" in found and "distinct_1" in found and "no training text found" in capsys.readouterr().out


def test_a_base_with_more_rows_than_its_tokenizer_has_ids_keeps_them(corpus, records, tmp_path):
    base, out = tmp_path / "base", tmp_path / "sft"
    flags = [
        *corpus.flags(),
        "--tokenizer",
        str(corpus.tokenizer),
        "--max-iters",
        "1",
        "--out-dir",
        str(base),
    ]
    assert train([*flags, "--vocab-size", "320"])
    again = ["--train-data", str(records), "--max-iters", "1"]
    assert sft([*FLAGS, *again, "--init-from", str(base), "--out-dir", str(out)])
    _, tokenizer, config = load_run(out)
    assert tokenizer.vocab_size == 304 and config.vocab_size == 320
    assert sft([*FLAGS, *again, "--init-from", str(out), "--out-dir", str(tmp_path / "more")])


def test_bad_records_are_counted_with_skip_bad(trained_run, records, tmp_path, capsys):
    path = tmp_path / "some.json"
    path.write_text(json.dumps([*json.loads(records.read_text()), {"instruction": "x"}]))
    flags = [*FLAGS, "--init-from", str(trained_run), "--train-data", str(path), "--max-iters", "1"]
    assert sft([*flags, "--skip-bad", "--out-dir", str(tmp_path / "sft")])
    assert "skipped 1 bad record (most common problem: has no output)" in capsys.readouterr().out
