import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmfast.flops import FlopsSettings, main
from lmfast.model.config import ModelConfig
from lmfast.settings import flat_types

SMALL = ["--vocab-size", "10000", "--context-length", "256", "--d-model", "512", "--num-layers", "4"]
SMALL += ["--num-heads", "16", "--d-ff", "1344"]


@pytest.fixture
def facts(capsys):
    """Runs the command with --json and returns what it printed."""

    def run(*words):
        main([*map(str, words), "--json"])
        return json.loads(capsys.readouterr().out)

    return run


def test_every_setting_is_tested_here():
    """In this file or in test_flops_parallel.py."""
    files = [Path(__file__), Path(__file__).with_name("test_flops_parallel.py")]
    here = "".join(file.read_text(encoding="utf-8") for file in files)
    for name in flat_types(FlopsSettings).keys() - flat_types(ModelConfig).keys():
        assert f'"--{name.replace("_", "-")}"' in here, name


@pytest.mark.parametrize(
    ("name", "count", "flops"),
    [
        ("gpt2_small", 190_460_160, 349_630_365_696),
        ("gpt2_medium", 505_629_696, 1_033_109_504_000),
        ("gpt2_large", 1_072_469_760, 2_257_754_521_600),
        ("gpt2_xl", 2_127_057_600, 4_513_336_524_800),
    ],
)
def test_the_shapes_of_configs(facts, name, count, flops):
    found = facts("--config", name)
    assert found["parameters"]["total"] == count
    assert found["forward_flops_per_sequence"]["total"] == flops
    assert found["training_flops_per_sequence"]["total"] == 3 * flops
    assert found["training_flops_per_token"] == 3 * flops / 1024
    for part in ("parameters", "forward_flops_per_sequence", "training_flops_per_sequence", "memory_bytes"):
        values = {k: v for k, v in found[part].items() if k != "batch_size"}
        assert values.pop("total") == sum(values.values())


def test_the_command_line_overrides_the_file(facts):
    found = facts("--config", "gpt2_xl", "--context-length", "16384")
    assert found["forward_flops_per_sequence"]["total"] == 149_522_795_724_800


@pytest.mark.parametrize(
    "words",
    [
        ["--vocab-size", "20000"],
        ["--context-length", "512"],
        ["--d-model", "256"],
        ["--num-layers", "5"],
        ["--num-kv-heads", "4"],
        ["--d-ff", "2048"],
        ["--norm", "none"],
        ["--ffn", "relu2", "--d-ff", "1345"],
        ["--qk-norm"],
        ["--tie-embeddings"],
        ["--parallel-block"],
        ["--dropout", "0.1"],
        ["--position", "none"],
        ["--position", "learned"],
        ["--num-experts", "4"],
        ["--batch-size", "16"],
        ["--dtype", "fp32"],
    ],
    ids=" ".join,
)
def test_a_shape_changes_the_figures(facts, words):
    def figures(*more):
        found = facts(*SMALL, *more)
        return [found["parameters"], found["training_flops_per_sequence"], found["memory_bytes"]]

    assert figures(*words) != figures()


def test_experts_count_as_total_and_active_parameters(facts, capsys):
    words = [*SMALL, "--num-experts", "8"]
    two, one, dense = facts(*words), facts(*words, "--experts-per-token", "1"), facts(*SMALL)
    assert two["parameters"] == one["parameters"] and two["active_parameters"] > one["active_parameters"]
    assert dense["active_parameters"] == dense["parameters"]["total"]
    forward, plain = two["forward_flops_per_sequence"], dense["forward_flops_per_sequence"]
    assert (
        forward["feed_forward"]
        == 2 * plain["feed_forward"]
        == 2 * one["forward_flops_per_sequence"]["feed_forward"]
    )
    assert forward["router"] > 0 == plain["router"]
    assert "experts_per_token" in two["convention"] and "xperts" not in dense["convention"]
    timed = facts(*words, "--device", "H100", "--tokens-per-parameter", "2")
    assert timed["time"]["total_tokens"] == 2 * two["active_parameters"]
    budget = facts(*words, "--device", "H100", "--hours", "1")["shape"]
    assert budget["parameters"] > budget["active_parameters"]
    assert budget["tokens"] == pytest.approx(20 * budget["active_parameters"], rel=1e-6)
    capsys.readouterr()
    main(words)
    printed = capsys.readouterr().out
    assert (
        "× 8 experts (2 per token)" in printed
        and f"{two['active_parameters']:,} active parameters" in printed
    )
    main([*words, "--device", "H100", "--hours", "1"])
    assert f"({budget['active_parameters']:,} active)" in capsys.readouterr().out


def test_heads_and_rope_theta_are_printed(facts):
    assert facts(*SMALL, "--num-heads", "8", "--rope-theta", "500000")["config"]["rope_theta"] == 500000
    # Fewer heads, fewer of attention's logsumexps.
    one, other = facts(*SMALL), facts(*SMALL, "--num-heads", "8")
    assert one["memory_bytes"]["activations"] - other["memory_bytes"]["activations"] == 32 * 256 * 4 * 8 * 4


def test_batch_size_scales_the_activations(facts):
    one, many = facts(*SMALL, "--batch-size", "1"), facts(*SMALL, "--batch-size", "64")
    assert many["memory_bytes"]["activations"] == 64 * one["memory_bytes"]["activations"]
    assert many["memory_bytes"]["weights"] == one["memory_bytes"]["weights"]


def test_dtype_comes_from_the_line_then_the_file(facts, tmp_path):
    assert facts(*SMALL)["dtype"] == "bf16"
    assert facts("--config", "gpt2_small")["dtype"] == "bf16"
    assert (
        facts("--config", "gpt2_small", "--dtype", "fp16", "--device", "T4")["device"]["peak_flops"] == 65e12
    )
    (tmp_path / "fp32.yaml").write_text("vocab_size: 100\n")
    found = facts("--config", tmp_path / "fp32.yaml")
    assert found["dtype"] == "fp32" and found["memory_bytes"]["weight_copies"] == 0
    assert found["kv_cache_bytes_per_token"] == 2 * facts("--vocab-size", "100")["kv_cache_bytes_per_token"]


def test_time_on_a_named_device(facts):
    found = facts(*SMALL, "--device", "H100", "--total-tokens", 10**9, "--mfu", "0.5")
    assert found["device"]["name"] == "H100 SXM"
    assert found["device"]["peak_source"] == "dense bf16, NVIDIA H100 data sheet"
    per_token = found["training_flops_per_token"]
    assert found["time"]["seconds"] == pytest.approx(10**9 * per_token / (0.5 * 989e12))
    assert found["time"]["tokens_per_second"] == pytest.approx(0.5 * 989e12 / per_token)
    by_ratio = facts(*SMALL, "--device", "H100", "--tokens-per-parameter", "20")
    assert by_ratio["time"]["total_tokens"] == 20 * by_ratio["parameters"]["total"]
    assert "time" not in facts(*SMALL) and "seconds" not in facts(*SMALL, "--device", "L4")["time"]


def test_time_without_a_device_means_this_machine(facts):
    found = facts(*SMALL, "--total-tokens", "1000", "--dtype", "fp32")
    assert (
        found["device"]["peak_source"].startswith(("measured", "H100", "H200"))
        and found["time"]["seconds"] > 0
    )


def test_tokens_come_from_a_training_file(facts, tmp_path):
    assert facts("--config", "tinystories_17m", "--device", "B200")["time"]["total_tokens"] == 327_680_000
    (tmp_path / "steps.yaml").write_text(
        "vocab_size: 100\nmax_iters: 50\nbatch_size: 8\ngrad_accumulation: 2\nbf16: true\n"
    )
    words = ["--config", tmp_path / "steps.yaml", "--device", "L4"]
    assert facts(*words)["time"]["total_tokens"] == 50 * 8 * 2 * 1024
    with (tmp_path / "steps.yaml").open("a") as file:
        file.write("batch_ramp_iters: 10\n")  # ten steps of one pass, then of two
    assert facts(*words)["time"]["total_tokens"] == (50 * 2 - 10) * 8 * 1024
    assert facts(*words, "--total-tokens", "5")["time"]["total_tokens"] == 5
    by_ratio = facts("--config", "tinystories_17m", "--device", "L4", "--tokens-per-parameter", "2")
    assert by_ratio["time"]["total_tokens"] == 2 * by_ratio["parameters"]["total"]


def test_the_cost_of_a_run_folder(facts, trained_run):
    found = facts("--config", trained_run / "config.yaml")
    assert found["config"]["d_model"] == 16 and found["time"]["total_tokens"] == 6 * 4 * 16
    assert found["parameters"]["total"] == json.loads((trained_run / "run.json").read_text())["parameters"]


def test_files_of_sft_and_dpo(facts, trained_run, tmp_path, capsys):
    """Their model is that of the base run, with chat tokens; dpo's batch counts pairs."""
    base = facts("--config", trained_run / "config.yaml")
    file = tmp_path / "post.yaml"
    for init_from in (trained_run, max(trained_run.glob("checkpoints/step_*"))):
        file.write_text(f"init_from: {init_from}\nheld_out: 4\nepochs: 2\n")
        found = facts("--config", file)
        assert found["config"] == base["config"] | {"vocab_size": base["config"]["vocab_size"] + 4}
        assert found["memory_bytes"]["batch_size"] == 8
    file.write_text(f"init_from: {trained_run}\nbeta: 0.1\nbatch_size: 3\ncontext_length: 8\n")
    found = facts("--config", file, "--d-ff", "32")
    assert (found["memory_bytes"]["batch_size"], found["config"]["context_length"]) == (6, 8)
    assert (found["config"]["d_model"], found["config"]["d_ff"]) == (16, 32)
    assert facts("--config", file, "--batch-size", "3")["memory_bytes"]["batch_size"] == 3
    for name in ("sft", "dpo"):
        with pytest.raises(SystemExit):
            main(["--config", name])
        printed = capsys.readouterr().err
        assert f"error: {name}: settings of sft or dpo" in printed and "add --init-from RUN" in printed
        assert facts("--config", name, *SMALL)["parameters"] == facts(*SMALL)["parameters"]
        found = facts("--config", name, "--init-from", trained_run)
        assert found["config"] == base["config"] | {"vocab_size": base["config"]["vocab_size"] + 4}
    assert facts("--init-from", trained_run, "--d-ff", "32")["config"] == base["config"] | {"d_ff": 32}
    with pytest.raises(SystemExit):
        main(["--config", "gpt2_small", "--init-from", str(trained_run)])
    assert "gpt2_small: already gives the shape of the model; remove --init-from" in capsys.readouterr().err
    file.write_text("init_from: gone\nheld_out: 4\n")
    with pytest.raises(SystemExit):
        main(["--config", str(file)])
    assert "error: gone: not a run folder" in capsys.readouterr().err


def test_the_largest_batch_for_a_memory(facts):
    named = facts(*SMALL, "--device", "L4")["largest_batch"]
    assert named["memory_bytes"] == 24e9 and named["batch_size"] > 1
    given = facts(*SMALL, "--memory", "24")["largest_batch"]
    assert given == named
    assert (
        facts(*SMALL, "--device", "L4", "--memory", "12")["largest_batch"]["batch_size"] < named["batch_size"]
    )
    assert facts("--config", "gpt2_xl", "--memory", "24")["largest_batch"]["batch_size"] == 0
    assert "largest_batch" not in facts(*SMALL)


def test_the_inverse(facts):
    words = ["--device", "L4", "--hours", "24", "--tokens-per-parameter", "100", "--dtype", "fp16"]
    found = facts(*words, "--mfu", "1")
    assert found["device"]["peak_flops"] == 121e12
    assert round(found["parameters"] / 1e6) == 132 and round(found["tokens"] / 1e9, 1) == 13.2
    assert found["shape"] is None
    # Four times less compute, half the model.
    assert facts(*words, "--mfu", "0.25")["parameters"] == pytest.approx(found["parameters"] / 2, rel=1e-6)
    assert facts("--device", "L4", "--hours", "24")["tokens_per_parameter"] == 20


def test_the_inverse_proposes_a_shape(facts):
    words = ["--config", "tinystories_17m", "--device", "L4", "--hours", "24"]
    found = facts(*words)
    shape = found["shape"]
    assert 0.85 * 24 * 3600 <= shape["seconds"] <= 24 * 3600
    assert shape["config"]["vocab_size"] == 10000 and shape["largest_batch"]["batch_size"] > 1
    # The command gives the same figures for the shape that it proposes.
    flags = [
        f"--{k}={shape['config'][k]}"
        for k in ("vocab_size", "context_length", "d_model", "num_layers", "num_heads")
    ]
    again = facts(*flags, "--device", "L4", "--total-tokens", shape["tokens"])
    assert again["parameters"]["total"] == shape["parameters"]
    assert again["time"]["seconds"] == pytest.approx(shape["seconds"])


def test_json_states_the_conventions(facts):
    found = facts(*SMALL)
    assert (
        "4 × num_layers × d_model × T" in found["convention"]
        and "training = 3 × forward" in found["convention"]
    )
    assert (
        "bf16 products" in found["memory_assumptions"] and "no recomputation" in found["memory_assumptions"]
    )


def test_plot_writes_a_picture(tmp_path, capsys):
    main([*SMALL, "--plot", str(tmp_path / "shares.png")])
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'shares.png'}\n")


def test_a_file_with_both_16_bit_types_is_rejected_as_in_training(capsys, tmp_path):
    (tmp_path / "both.yaml").write_text("vocab_size: 300\nbf16: true\nfp16: true\n")
    with pytest.raises(SystemExit) as stop:
        main(["--config", str(tmp_path / "both.yaml")])
    assert stop.value.code == 2
    assert "bf16 and fp16 are both set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "vocab_size is not set"),
        (["--config", "gpt2_x"], "gpt2_x: no such settings file; did you mean gpt2_xl?"),
        ([*SMALL, "--num-heads", "7"], "d_model 512 is not divisible by num_heads 7"),
        ([*SMALL, "--device", "H1000 SXM"], "unknown device H1000 SXM; did you mean H100 SXM?"),
        ([*SMALL, "--device", "T4"], "T4 does not support bf16; choose another --dtype: fp16, fp32"),
        ([*SMALL, "--device", "cpu", "--dtype", "fp8"], "fp8 rates cannot be measured"),
        ([*SMALL, "--batch-size", "0"], "batch_size is 0"),
        ([*SMALL, "--memory", "-1"], "memory is -1.0"),
        ([*SMALL, "--memory", "inf"], "memory is inf"),
        ([*SMALL, "--total-tokens", "0"], "total_tokens is 0"),
        ([*SMALL, "--mfu", "1.5", "--device", "L4"], "mfu is 1.5; it must be above 0"),
        ([*SMALL, "--total-tokens", "5", "--tokens-per-parameter", "5"], "give only one of them"),
        (["--hours", "1"], "hours requires a device"),
        (["--hours", "nan", "--device", "L4"], "hours is nan"),
        (["--hours", "1", "--device", "L4", "--total-tokens", "5"], "hours and total_tokens are both set"),
        (["--hours", "1", "--device", "L4", "--plot", "x.png"], "hours and plot are both set"),
        (["--hours", "1", "--device", "L4", "--vocab-size", "500000000000"], "can be trained in 1 hours"),
        ([*SMALL, "--plot", "/nowhere/x.png"], "the directory /nowhere does not exist"),
        ([*SMALL, "--plot", "shares.abc"], "shares.abc: not an image file name"),
        ([*SMALL, "--dvice", "L4"], "did you mean --device?"),
        ([*SMALL, "--memory", "1KB"], "--memory is '1KB'; expected a number"),
        ([*SMALL, "--total-tokens", "40e9"], "--total-tokens is '40e9'; expected a whole number in digits"),
        ([*SMALL, "--memory", "1e300"], "memory is 1e+300; it must be at most 1e+15"),
        (
            [*SMALL, "--tokens-per-parameter", "1e300"],
            "tokens_per_parameter is 1e+300; it must be at most 1e+15",
        ),
        ([*SMALL, "--context-length", "9" * 400], "it must be at most 1e+15"),
        ([*SMALL, "--device", "L4", "--mfu", "1e-300"], "mfu is 1e-300; it must be at least 1e-15"),
        (["--hours", "1e30", "--device", "L4"], "hours is 1e+30; it must be at most 1e+15"),
        ([*SMALL, "--dtype", "int8"], "int8"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and message in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


def test_absurd_numbers_are_counted_too(facts):
    """Fast: neither layers nor widths are tried one by one."""
    deep = facts("--vocab-size", "100", "--d-model", "64", "--num-heads", "1", "--num-layers", "99999999999")
    assert deep["parameters"]["norms"] == 64 * (2 * 99999999999 + 1)
    found = facts("--vocab-size", "32000", "--device", "B200", "--dtype", "fp8", "--hours", "1e15")
    assert 0.99 < found["shape"]["training_flops"] / found["training_flops"] <= 1


def test_an_unknown_name_in_the_file_is_rejected(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("vocab_size: 100\nd_modle: 5\n")
    with pytest.raises(SystemExit):
        main(["--config", str(tmp_path / "c.yaml")])
    assert "unknown setting 'd_modle'; did you mean d_model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--help"], [*SMALL, "--device", "L4"], ["--device", "L4", "--hours", "5"]]
)
def test_torch_is_loaded_only_to_examine_this_machine(words):
    code = f"import sys; from lmfast.flops import main\ntry: main({words})\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "numba", "matplotlib"} & set(done.stderr.split())


def test_recomputation_is_not_part_of_mfu(facts, capsys):
    none, block, selective = (
        facts(*SMALL, "--activation-checkpointing", kind, "--device", "L4")
        for kind in ("none", "block", "selective")
    )
    # the forward of the blocks, but for the down projection: 2 · 4 layers · 256 tokens · 512 · 1344
    forward = none["forward_flops_per_sequence"]
    again = forward["total"] - forward["head"] - 2 * 4 * 256 * 512 * 1344
    assert block["recomputation_flops_per_sequence"] == again
    assert none["recomputation_flops_per_sequence"] == selective["recomputation_flops_per_sequence"] == 0
    assert none["training_flops_per_sequence"] == block["training_flops_per_sequence"]
    assert none["memory_bytes"]["total"] > selective["memory_bytes"]["total"] > block["memory_bytes"]["total"]
    assert none["largest_batch"]["batch_size"] < block["largest_batch"]["batch_size"]
    main([*SMALL, "--activation-checkpointing", "block"])
    out = capsys.readouterr().out
    assert f"recomputation: {again:,.0f} FLOPs more in the backward, not part of MFU" in out
    assert "recomputed activations of a layer" in out


@pytest.mark.parametrize("gpus", [[], ["--gpus", "8"], ["--gpus", "8", "--link", "900GB/s"]], ids=str)
def test_recomputation_takes_time(facts, capsys, gpus):
    words = [*SMALL, *gpus, "--device", "H100", "--batch-size", "4096", "--total-tokens", "1000000"]
    none, block = (facts(*words, "--activation-checkpointing", kind) for kind in ("none", "block"))
    more = 1 + block["recomputation_flops_per_sequence"] / block["training_flops_per_sequence"]["total"]
    assert more > 1.1
    slower = none["time"]["seconds"] / block["time"]["seconds"]
    if "--link" in gpus:  # communication takes as long, and the longer backward hides more of it
        assert 1 / more < slower < 1
    else:
        assert slower == pytest.approx(1 / more)
    for name in ("mfu", "tokens_per_second"):
        assert block["time"][name] == pytest.approx(none["time"][name] * slower)
    main([*words, "--activation-checkpointing", "block"])
    out = capsys.readouterr().out
    mfu = block["time"]["mfu"]
    assert f"at {mfu:.0%} MFU ({mfu * more:.0%} with recomputation) " in out
    assert mfu < none["time"]["mfu"]


def test_a_time_budget_includes_recomputation(facts):
    words = ["--device", "L4", "--hours", "24"]
    none, block = (facts(*words, "--activation-checkpointing", kind) for kind in ("none", "block"))
    assert block["training_flops"] == pytest.approx(none["training_flops"] * 3 / 4)
    assert block["mfu"] == pytest.approx(0.3)
    found = facts(*words, "--vocab-size", "32000", "--activation-checkpointing", "block")
    shape = found["shape"]
    assert 0.8 * 24 * 3600 < shape["seconds"] <= 24 * 3600
    # The command agrees about the time of the shape.
    flags = [f"--{k}={shape['config'][k]}" for k in ("vocab_size", "d_model", "num_layers", "num_heads")]
    flags += ["--activation-checkpointing", "block", "--device", "L4", "--total-tokens", shape["tokens"]]
    assert facts(*flags)["time"]["seconds"] == pytest.approx(shape["seconds"], rel=0.02)
    assert facts(*flags)["time"]["seconds"] <= 24 * 3600
