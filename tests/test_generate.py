import contextlib
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmfast.cli.generating import execution_of
from lmfast.cli.opening import OpenRun, _needs_torch
from lmfast.generate import GenerateSettings, generate_text, main
from lmfast.model.config import ModelConfig
from lmfast.settings import flat_types
from lmfast_kernels import cpu_build
from tests.complete_runs import run as train_run

GREEDY = ("--temperature", "0", "--max-tokens", "12", "--device", "cpu")


@pytest.fixture
def lines(trained_run, capsys):
    """Runs the command on the tiny run; returns (standard output, standard error)."""

    def run(*words):
        main(["--checkpoint", str(trained_run), *map(str, words)])
        return capsys.readouterr()

    return run


def test_every_setting_is_tested_here():
    here = Path(__file__).read_text(encoding="utf-8")
    for name in flat_types(GenerateSettings):
        assert f"--{name.replace('_', '-')}" in here or f'"{name}"' in here, name


def test_text_goes_to_output_and_the_rest_to_error(lines):
    out, err = lines("--prompt", "Once upon", *GREEDY)
    assert out.startswith("Once upon") and out.endswith("\n")
    assert "tokens/s with KV cache on cpu" in err


def test_the_text_is_the_same_with_and_without_a_cache(lines):
    with_cache = lines("--prompt", "Once upon", *GREEDY, "--kv-cache")
    without = lines("--prompt", "Once upon", *GREEDY, "--no-kv-cache")
    assert with_cache.out == without.out
    assert "without KV cache" in without.err


def test_compile_gives_the_same_text_through_one_graph(lines, monkeypatch):
    import torch

    from lmfast.inference import torch_decoder

    plain = lines("--prompt", "Once upon", *GREEDY)
    monkeypatch.setitem(torch_decoder.COMPILE, "backend", "eager")  # Inductor's code takes ten seconds
    torch_decoder._compiled_decode.cache_clear()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert lines("--prompt", "Once upon", *GREEDY, "--compile").out == plain.out
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    torch_decoder._compiled_decode.cache_clear()


def test_compile_reports_why_it_is_unavailable(trained_run, monkeypatch, capsys):
    monkeypatch.setattr("lmfast.model.device.compile_blocker", lambda device: "no C++ compiler was found")
    with pytest.raises(SystemExit):
        main(["--checkpoint", str(trained_run), "--prompt", "Once", "--compile", "--device", "cpu"])
    err = capsys.readouterr().err
    assert (
        err.count("\n") == 1 and "--compile does not work here: no C++ compiler was found; remove it" in err
    )


def test_a_batch_prints_each_text_and_equals_single_runs(lines):
    out, _ = lines("--prompt", "Once upon", "One day, a", *GREEDY)
    assert (
        out
        == f"--- 1\n{lines('--prompt', 'Once upon', *GREEDY).out}--- 2\n{lines('--prompt', 'One day, a', *GREEDY).out}"
    )


def test_prompts_from_a_file_and_from_standard_input(lines, tmp_path, monkeypatch):
    file = tmp_path / "prompts.txt"
    file.write_text("Once upon\n\nOne day, a\n")
    expected = lines("--prompt", "Once upon", "One day, a", *GREEDY).out
    assert lines("--prompt-file", file, *GREEDY).out == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon\nOne day, a\n"))
    assert lines("--prompt-file", "-", *GREEDY).out == expected


def test_a_separator_makes_prompts_of_several_lines(lines, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Once\nupon\n---\n\nOne day,\u2028a\r\n---\n\n---\n", newline="")
    expected = lines("--prompt", "Once\nupon", "One day,\u2028a", *GREEDY).out
    separator = "--prompt-separator=" + r"---\n"
    assert lines("--prompt-file", file, separator, *GREEDY).out == expected
    file.write_text("Once upon\n\na time\n")
    assert lines("--prompt-file", file, "--prompt-separator", "", *GREEDY).out.startswith(
        "Once upon\n\na time"
    )
    file.write_text("Once\x0cupon\u2028a\n")  # a single line for other programs
    assert lines("--prompt-file", file, *GREEDY).out.startswith("Once\x0cupon\u2028a")


def test_piped_text_is_prompts(lines, tmp_path, monkeypatch):
    (tmp_path / "in").write_text("Once upon\nOne day, a\n")
    expected = lines("--prompt", "Once upon", "One day, a", *GREEDY).out
    with open(tmp_path / "in") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        read = lines(*GREEDY)
    assert read.out == expected and read.err.startswith(
        "reading prompts from standard input (for none: </dev/null or --prompt '')\n"
    )
    with open(tmp_path / "in") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert lines("--prompt", "Once", *GREEDY).out.startswith("Once") and stdin.read().startswith(
            "Once upon"
        )
    with open(os.devnull) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert "reading" not in lines(*GREEDY).err


def test_no_prompt_begins_a_text(lines):
    assert lines(*GREEDY).out.strip()


def test_sampling_settings_have_an_effect(lines):
    free = ("--prompt", "Once", "--max-tokens", "12", "--no-stop", "--device", "cpu")
    hot = lines(*free, "--temperature", "5", "--seed", "1", "--top-p", "1").out
    assert lines(*free, "--temperature", "5", "--seed", "1", "--top-p", "1").out == hot
    assert lines(*free, "--temperature", "5", "--seed", "2", "--top-p", "1").out != hot
    greedy = lines(*free, "--temperature", "0").out
    assert lines(*free, "--temperature", "5", "--seed", "1", "--top-k", "1").out == greedy
    assert lines(*free, "--temperature", "5", "--seed", "1", "--top-p", "0.000001").out == greedy


@pytest.fixture
def without_torch():
    if reason := cpu_build.why_not("decoder"):
        pytest.skip(reason)


def test_the_command_starts_without_torch_and_numba(without_torch, trained_run):
    code = "import sys; from lmfast.generate import main; main(sys.argv[1:]); print(*sys.modules)"
    words = ["--checkpoint", str(trained_run), "--prompt", "Once", "--max-tokens", "3"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert done.stdout.startswith("Once") and "lmfast.inference.decode" in loaded
    assert not {"torch", "numba", "transformers"} & loaded


@pytest.mark.parametrize(
    "words",
    [
        ["--temperature", "0"],
        ["--temperature", "3", "--top-k", "20", "--seed", "5"],
        ["--prompt", "One day, a", "--max-tokens", "99"],  # a batch, and windows that move
    ],
    ids=str,
)
def test_the_text_is_the_same_with_torch(without_torch, lines, monkeypatch, words):
    words = ["--prompt", "Once upon", "--max-tokens", "30", "--device", "cpu", "--no-stop", *words]
    plain = lines(*words)
    monkeypatch.setattr("lmfast.cli.opening._needs_torch", lambda settings, config: True)
    monkeypatch.delattr("lmfast.cli.opening._without_torch")
    assert lines(*words).out == plain.out


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_absolute_positions_give_the_same_text_with_torch(
    without_torch, corpus, tmp_path, capsys, monkeypatch, position
):
    train_run(corpus, tmp_path / "run", "--position", position, "--max-iters", 3)
    capsys.readouterr()
    words = ["--checkpoint", str(tmp_path / "run"), "--prompt", "Once upon", "--prompt", "One day, a"]
    words += ["--max-tokens", "40", "--temperature", "2", "--device", "cpu", "--no-stop"]
    main(words)
    plain = capsys.readouterr().out
    monkeypatch.setattr("lmfast.cli.opening._needs_torch", lambda settings, config: True)
    monkeypatch.delattr("lmfast.cli.opening._without_torch")
    main(words)
    assert capsys.readouterr().out == plain
    main([*words, "--no-kv-cache"])
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    ("gpu", "settings", "expected"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"device": "cpu"}, False),
        (False, {"device": "cuda"}, True),
        *((False, {flag: True}, True) for flag in ("compile", "bf16", "fp16")),
        (False, {"kv_cache": False}, True),
    ],
    ids=str,
)
def test_what_needs_torch(without_torch, monkeypatch, gpu, settings, expected):
    monkeypatch.setattr("lmfast.cli.opening.may_have_gpu", lambda: gpu)
    config = ModelConfig(vocab_size=9).resolved()
    execution = execution_of(GenerateSettings(**settings))
    assert _needs_torch(execution, config) is expected
    monkeypatch.setattr("lmfast.inference.cpu.weights._SUPPORTED", {"vocab_size"})
    assert _needs_torch(execution, replace(config, num_heads=6))


def test_8_bit_weights_are_for_cpus(lines, monkeypatch, capsys):
    monkeypatch.setattr("lmfast.cli.opening.may_have_gpu", lambda: True)
    monkeypatch.setattr("lmfast.model.device.pick_device", lambda name: SimpleNamespace(type="cuda"))
    with pytest.raises(SystemExit):
        lines("--prompt", "Once", "--quantize", "int8")
    assert "--quantize int8 is for CPUs; add --device cpu" in capsys.readouterr().err


def test_8_bit_weights(without_torch, lines):
    words = ["--prompt", "Once upon", "--temperature", "0", "--max-tokens", "12", "--device", "cpu"]
    out, err = lines(*words, "--quantize", "int8")
    assert out.startswith("Once upon") and "with KV cache, int8 weights on cpu" in err


def test_max_tokens(lines):
    assert (
        " 5 tokens in"
        in lines("--prompt", "Once", "--temperature", "0", "--no-stop", "--max-tokens", "5").err
    )


def opened(monkeypatch, model, tokenizer) -> None:
    """Makes the command use these instead of opening the run."""
    run = OpenRun(Path("any"), model, tokenizer, "cpu", {}, contextlib.nullcontext())
    monkeypatch.setattr("lmfast.cli.generating.open_run", lambda *_: run)


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|end|>"])
def test_stop_uses_the_runs_end_tokens(lines, trained_run, monkeypatch, end):
    """Includes <|end|> without --chat: a chat-tuned run ends its turns only with it."""
    from lmfast import load_run
    from lmfast.data.chat import add_chat_tokens

    model, tokenizer, _ = load_run(trained_run)
    if end == "<|end|>":
        tokenizer = add_chat_tokens(tokenizer)
    ids = model.generate(tokenizer.encode("Once"), max_tokens=12, temperature=0.0)
    # The tiny model never ends a text, so the tokenizer's third token is declared to be the end.
    tokenizer.special_tokens[end] = ids[2]
    opened(monkeypatch, model, tokenizer)
    ended, _ = lines("--prompt", "Once", *GREEDY, "--stop")
    free, _ = lines("--prompt", "Once", *GREEDY, "--no-stop")
    assert free.startswith(ended.rstrip("\n")) and len(ended) < len(free)


def test_a_tokenizer_without_an_end_is_reported(lines, trained_run, monkeypatch):
    from lmfast import load_run

    model, tokenizer, _ = load_run(trained_run)
    tokenizer.special_tokens.clear()
    opened(monkeypatch, model, tokenizer)
    assert "no <|endoftext|>, so each text continues to max_tokens" in lines("--prompt", "Once", *GREEDY).err
    assert "no <|endoftext|>" not in lines("--prompt", "Once", *GREEDY, "--no-stop").err


@pytest.mark.parametrize("flag", ["--bf16", "--fp16"])
def test_16_bits_run(lines, flag):
    assert lines("--prompt", "Once upon", *GREEDY, flag).out.startswith("Once upon")


def test_newest_run_is_the_default(trained_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").symlink_to(trained_run.parent)
    monkeypatch.chdir(tmp_path)
    generate_text(GenerateSettings(prompt=("Once",), max_tokens=3))
    assert "runs/tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "nowhere"], "nowhere: no such run folder"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--top-k", "0"], "top_k is 0"),
        (["--top-p", "2"], "top_p is 2"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--prompt-file", "none.txt"], "none.txt: no such prompt file"),
        (["--quantize", "int4"], "--quantize is 'int4'; expected one of int8"),
        (["--quantize", "int8", "--fp16"], "--quantize int8 computes in float32 on a CPU"),
        (["--quantize", "int8", "--compile"], "remove --compile"),
        (["--quantize", "int8", "--no-kv-cache"], "with the KV cache; remove --no-kv-cache"),
        (["--quantize", "int8", "--device", "cuda"], "remove --device cuda"),
        (["--temprature", "1"], "did you mean --temperature?"),
    ],
)
def test_bad_input_is_one_line(trained_run, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        main(["--checkpoint", str(trained_run), "--prompt", "Once", *words])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1


def test_a_prompt_file_that_is_not_text(trained_run, tmp_path, capsys):
    (tmp_path / "p").write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit):
        main(["--checkpoint", str(trained_run), "--prompt-file", str(tmp_path / "p")])
    assert "p: not UTF-8 text (byte 0)" in capsys.readouterr().err


def test_a_run_without_a_tokenizer(corpus, tmp_path, capsys):
    import shutil

    from lmfast.train import train

    shutil.copy(corpus.train, tmp_path / "t.npy")
    flags = [
        *corpus.flags(),
        "--train-data",
        str(tmp_path / "t.npy"),
        "--vocab-size",
        "300",
        "--max-iters",
        "1",
    ]
    train([*flags, "--out-dir", str(tmp_path / "run")])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--checkpoint", str(tmp_path / "run"), "--prompt", "Once"])
    assert "the run has no tokenizer" in capsys.readouterr().err


def test_prompts_may_be_given_one_flag_each_or_after_equals(lines):
    together = lines("--prompt", "Once upon", "One day, a", *GREEDY).out
    assert lines("--prompt", "Once upon", "--prompt", "One day, a", *GREEDY).out == together
    assert lines("--prompt=--- he said", *GREEDY).out.startswith("--- he said")


@pytest.mark.parametrize(
    "words, printed",
    [
        (("--chat", "--prompt", "Once"), "remove --prompt and --prompt-file"),
        (("--chat", "--no-stop"), "remove --no-stop"),
        (("--system", "be kind"), "--system requires --chat"),
        (("--chat",), "is not a chat model"),  # a base model
    ],
)
def test_chat_with_incompatible_flags_is_one_line(lines, capsys, words, printed):
    with pytest.raises(SystemExit) as stopped:
        lines(*words)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed in captured.err and len(captured.err.strip().splitlines()) == 1


def test_a_padded_vocabulary_generates_only_ids_of_the_tokenizer(corpus, tmp_path, capsys):
    """Also for samples during training: at this temperature most ids would be padding."""
    from lmfast import load_run
    from lmfast.train import train

    flags = [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--sample-interval", "2"]
    assert train([*flags, "--vocab-size", "900", "--max-iters", "2", "--out-dir", str(tmp_path / "run")])
    main(["--checkpoint", str(tmp_path / "run"), "--prompt", "Once", "--temperature", "9", "--top-p", "1"])
    assert "Once" in capsys.readouterr().out
    model, tokenizer, _ = load_run(tmp_path / "run")
    tokenizer.decode(model.generate(tokenizer.encode("Once"), max_tokens=50, temperature=9.0))


def test_a_run_is_opened_once(trained_run, opened, capsys):
    main(["--checkpoint", str(trained_run), "--prompt", "Once", "--max-tokens", "2", "--device", "cpu"])
    assert opened == {"tokenizer tokenizer": 1, "checkpoint step_00000006": 1}
