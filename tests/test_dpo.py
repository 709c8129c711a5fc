import json
import math
import os
import shutil
import sys

import numpy as np
import pytest
import torch

from lmfast import load_run
from lmfast.dpo import dpo, main
from lmfast.errors import UserError
from lmfast.evaluate import EvaluateSettings, evaluate_run
from lmfast.files import file_sha256
from lmfast.training.checkpoint import find_checkpoint
from lmfast.training.run_folder import read_facts, read_metrics
from tests.training.forked_runs import close, finish, start_ranks

FLAGS = "--held-out 4 --warmup-iters 1 --lr 1e-2 --log-interval 1 --eval-interval 4 --device cpu --batch-size 4".split()


@pytest.fixture(scope="module")
def talker(trained_run, tmp_path_factory):
    """A model with a context of 16 tokens, trained on both answers, and preferences between them."""
    from lmfast.sft import sft

    folder = tmp_path_factory.mktemp("dpo")
    asked = [{"instruction": f"a{i}", "output": "bc"[i % 2]} for i in range(24)]
    (folder / "talk.json").write_text(json.dumps(asked))
    pairs = [{"prompt": f"a{i}", "chosen": "b", "rejected": "c"} for i in range(24)]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    flags = ["--init-from", str(trained_run), "--train-data", str(folder / "talk.json"), "--max-iters", "8"]
    assert sft([*FLAGS, *flags, "--out-dir", str(folder / "sft")])
    return folder


def flags_of(folder, *more):
    return [
        *FLAGS,
        "--init-from",
        str(folder / "sft"),
        "--train-data",
        str(folder / "pairs.json"),
        *map(str, more),
    ]


def test_the_chosen_answer_gains_on_held_out_prompts(talker, tmp_path, capsys):
    out = tmp_path / "dpo"
    assert dpo(flags_of(talker, "--max-iters", 12, "--out-dir", out))
    lines = read_metrics(out)
    assert lines[0]["train_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    last = lines[-1]
    assert last["val_loss"] < math.log(2) and last["val_rewards/accuracies"] == 1.0
    assert last["val_rewards/margins"] == pytest.approx(
        last["val_rewards/chosen"] - last["val_rewards/rejected"], abs=1e-5
    )
    again = evaluate_run(EvaluateSettings(run=str(out), batch_size=3, device="cpu"))
    for name in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen"):
        assert again[name] == pytest.approx(last[f"val_{name}"], rel=1e-4)
    evaluated = [line["val_rewards/margins"] for line in lines if "val_rewards/margins" in line]
    assert len(evaluated) == 3 and evaluated[-1] > evaluated[0] > 0
    # This stage holds out the same prompts as the stage before.
    facts, before = read_facts(out), read_facts(talker / "sft")
    assert facts["stage"] == "dpo" and facts["held_out"] == before["held_out"] and len(facts["held_out"]) == 4
    printed = capsys.readouterr().out
    assert "may have been trained on" not in printed and "20 pairs of up to" in printed


def test_tokens_are_those_of_the_rows_whatever_the_context(talker, tmp_path, capsys):
    tokens = set()
    for context in (16, 64):
        out = tmp_path / str(context)
        assert dpo(flags_of(talker, "--max-iters", 1, "--context-length", context, "--out-dir", out))
        tokens.add(read_metrics(out)[-1]["tokens"])
        assert f"1 step of {read_metrics(out)[-1]['tokens']} tokens per step" in capsys.readouterr().out
    assert len(tokens) == 1


@pytest.mark.parametrize("precision", [[], ["--fp16"]], ids=str)
def test_a_stopped_run_resumes_to_the_same_weights_and_reference(talker, tmp_path, precision):
    flags = flags_of(talker, "--lr-decay-iters", 4, *precision)
    assert dpo([*flags, "--max-iters", "4", "--out-dir", str(tmp_path / "whole")])
    assert dpo([*flags, "--max-iters", "2", "--out-dir", str(tmp_path / "parts")])
    stamp = (tmp_path / "parts/reference.npz").stat().st_mtime_ns
    assert dpo(["--max-iters", "4", "--out-dir", str(tmp_path / "parts")])
    assert (tmp_path / "parts/reference.npz").stat().st_mtime_ns == stamp
    one, other = (load_run(tmp_path / name)[0].named_weights() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_cache_serves_several_runs_and_is_rejected_for_another_model(talker, trained_run, tmp_path):
    cache = tmp_path / "cache.npz"
    flags = flags_of(talker, "--max-iters", 1, "--reference-cache", cache)
    assert dpo([*flags, "--out-dir", str(tmp_path / "a")])
    stamp = cache.stat().st_mtime_ns
    assert dpo([*flags, "--beta", "0.5", "--loss-type", "ipo", "--out-dir", str(tmp_path / "b")])
    assert cache.stat().st_mtime_ns == stamp and not (tmp_path / "b/reference.npz").exists()
    # ipo at the reference: (0 − 1 / 2β)² = 1
    assert read_metrics(tmp_path / "b")[0]["train_loss"] == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(UserError, match=r"has another model shape|its model is"):
        dpo([*flags, "--init-from", str(tmp_path / "a"), "--out-dir", str(tmp_path / "c")])
    with pytest.raises(UserError, match="its data is"):
        dpo([*flags, "--held-out", "5", "--out-dir", str(tmp_path / "c")])
    assert not (tmp_path / "c").exists()


def test_a_cache_is_found_again_from_another_folder(talker, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert dpo(flags_of(talker, "--max-iters", 1, "--reference-cache", "cache.npz", "--out-dir", "../a"))
    stamp = (tmp_path / "here/cache.npz").stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    assert dpo(["--max-iters", "2", "--out-dir", "a"])
    assert (tmp_path / "here/cache.npz").stat().st_mtime_ns == stamp
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "here"]


def changed_in_place(path, old: bytes, new: bytes):
    """Other content of the same size and modification time."""
    facts, data = path.stat(), path.read_bytes()
    assert len(old) == len(new) and old in data
    path.write_bytes(data.replace(old, new, 1))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)


def test_a_cache_is_identified_by_content_not_by_size_and_time(talker, tmp_path):
    for name in ("sft", "pairs.json"):
        (shutil.copytree if name == "sft" else shutil.copy2)(talker / name, tmp_path / name)
    cache = tmp_path / "cache.npz"
    flags = flags_of(tmp_path, "--max-iters", 1, "--reference-cache", cache, "--out-dir", tmp_path / "run")
    assert dpo(flags)

    def rejected(part: str, *extra: str) -> None:
        with pytest.raises(UserError, match=f"cache.npz: does not match this run: its {part} is "):
            dpo([*flags, *extra, "--out-dir", str(tmp_path / "other")])
        assert not (tmp_path / "other").exists()

    rejected("settings", "--bf16")
    rejected("settings", "--fp16")
    changed_in_place(tmp_path / "pairs.json", b'"chosen": "b"', b'"chosen": "d"')
    rejected("data")
    changed_in_place(tmp_path / "pairs.json", b'"chosen": "d"', b'"chosen": "b"')
    weights = find_checkpoint(tmp_path / "sft").path / "model.safetensors"
    data, before = weights.read_bytes(), file_sha256(weights)
    changed_in_place(weights, data[-64:], data[-64:-1] + bytes([data[-1] ^ 1]))
    changed_in_place(weights.parent / "COMPLETE", before.encode(), file_sha256(weights).encode())
    rejected("model")


def test_a_runs_own_reference_is_reused_rejected_or_recomputed(talker, tmp_path):
    out, kept = tmp_path / "run", tmp_path / "run/reference.npz"
    assert dpo(flags_of(talker, "--max-iters", 1, "--out-dir", out))
    whole = kept.read_bytes()
    with np.load(kept) as file:
        key, numbers = str(file["key"]), file["log_probs"]
    # Different numbers under the right key are trusted: nothing is recomputed.
    shifted = numbers + np.array([[0, 5]], np.float32)
    np.savez(kept, key=key, log_probs=shifted)
    assert dpo(["--max-iters", "2", "--out-dir", str(out)])
    assert read_metrics(out)[-1]["rewards/rejected"] < -0.3  # β × 5 below what it is
    np.savez(kept, key=json.dumps(json.loads(key) | {"data": {}}), log_probs=numbers)
    with pytest.raises(UserError, match=r"reference\.npz: .* its data is .* delete the file"):
        dpo(["--max-iters", "3", "--out-dir", str(out)])
    kept.unlink()
    assert dpo(["--max-iters", "3", "--out-dir", str(out)])
    with np.load(kept) as file:
        np.testing.assert_array_equal(file["log_probs"], numbers)
    assert len(whole) == kept.stat().st_size


def test_accumulation_does_not_change_a_step(talker, tmp_path):
    losses = []
    for batch, accumulation in ((4, 1), (1, 4)):
        out = tmp_path / str(batch)
        sizes = ["--batch-size", batch, "--grad-accumulation", accumulation]
        assert dpo(flags_of(talker, "--max-iters", 3, *sizes, "--out-dir", out))
        losses.append([line["train_loss"] for line in read_metrics(out)])
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")
@pytest.mark.parametrize(
    "parallel", [("--parallel", "ddp"), ("--parallel", "fsdp"), ("--tensor-parallel", "2")]
)
def test_two_ranks_equal_one_and_only_the_first_prints(talker, tmp_path, parallel):
    flags = flags_of(
        talker, "--max-iters", 4, "--eval-interval", 2, "--grad-accumulation", 2, "--held-out", 5
    )
    assert dpo([*flags, "--out-dir", str(tmp_path / "one")])
    two = [*flags, "--out-dir", str(tmp_path / "two"), *parallel]
    texts = finish(start_ranks(two, tmp_path / "log", command="dpo"), tmp_path / "log")
    assert "19 pairs of up to" in texts[0] and "2 × " in texts[0] and texts[1] == ""
    one, other = (load_run(tmp_path / name)[0].named_weights() for name in ("one", "two"))
    close(one, other)
    lines = [read_metrics(tmp_path / name) for name in ("one", "two")]
    assert {"rewards/margins", "val_rewards/margins", "val_logps/chosen_change"} <= lines[0][-1].keys()
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "tokens_per_second", "mfu"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name
    # The ranks compute the reference of a single process, and one process resumes their run.
    with np.load(tmp_path / "one/reference.npz") as a, np.load(tmp_path / "two/reference.npz") as b:
        assert str(a["key"]) == str(b["key"])
        np.testing.assert_allclose(a["log_probs"], b["log_probs"], rtol=1e-5)
    assert dpo(["--max-iters", "5", "--tensor-parallel", "1", "--out-dir", str(tmp_path / "two")])
    wrong = [*flags, "--beta", "0", "--out-dir", str(tmp_path / "wrong")]
    texts = finish(start_ranks(wrong, tmp_path / "log2", command="dpo"), tmp_path / "log2", (2, 2))
    assert "beta is 0.0" in texts[0] and texts[1] == "" and not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--beta", "0"], "beta is 0.0"),
        (["--z-loss", "0.1"], "z_loss is 0.1"),
        (["--bf16", "--fp8"], "fp8 is not supported by dpo"),
        (["--document-mask"], "document_mask is only for train"),
        (["--label-smoothing", "0.5"], "label_smoothing is 0.5"),
        (["--label-smoothing", "0.1", "--loss-type", "ipo"], "does not apply to loss_type ipo"),
        (["--train-data", "talk"], "record 1 has no chosen"),
        (["--init-from", "base"], "is not a chat model"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_files(talker, trained_run, tmp_path, extra, message, capsys):
    names = {"talk": str(talker / "talk.json"), "base": str(trained_run)}
    out = tmp_path / "dpo"
    with pytest.raises(SystemExit) as exit:
        main([*flags_of(talker), *(names.get(word, word) for word in extra), "--out-dir", str(out)])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and error.count("\n") == 1
    assert not out.exists()
