"""`lmfast flops --gpus N`: memory, communication and time of a model that several GPUs train."""

import pytest

from lmfast.flops import main
from tests.test_flops import SMALL, facts

__all__ = ["facts"]

CLUSTER = [*SMALL, "--gpus", "8", "--parallel", "fsdp", "--link", "900GB/s", "--device", "H100"]


def test_several_gpus(facts, capsys):
    found = facts(*CLUSTER, "--grad-accumulation", "2", "--mfu", "0.5")
    cluster, count = found["cluster"], found["parameters"]["total"]
    root = 2 * 10_000 * 512 + 512
    assert found["memory_bytes"]["weights"] == count // 8 * 4
    assert found["memory_bytes"]["batch_size"] == 4  # of 32
    assert cluster["tokens_per_step"] == 2 * 32 * 256
    # the root once, each block for two forwards and two backwards; gradients in fp32 once
    assert cluster["bytes_sent_per_gpu"]["gathered"] == 2 * (root + 4 * (count - root)) * 7 / 8
    assert cluster["bytes_sent_per_gpu"]["reduced"] == 4 * count * 7 / 8
    assert cluster["seconds"]["communication"] == pytest.approx(
        cluster["bytes_sent_per_gpu"]["total"] / 450e9
    )
    seconds = cluster["seconds"]
    assert seconds["total"] == seconds["computation"] + seconds["exposed"]
    flops = found["training_flops_per_token"] * cluster["tokens_per_step"] / 8
    assert seconds["computation"] == pytest.approx(flops / (0.5 * 989e12))
    assert cluster["mfu"] == pytest.approx(flops / seconds["total"] / 989e12)
    assert found["time"]["tokens_per_second"] == pytest.approx(8 * cluster["tokens_per_second_per_gpu"])
    main(CLUSTER)
    out = capsys.readouterr().out
    for words in ("weights gathered from other GPUs", "GB per step (weights gathered", "computation hides all but",
                  "expected MFU", "batch 4 × 256 per data rank"):  # fmt: skip
        assert words in out


def test_whole_gradients_that_do_not_fit_are_reduced_after_each_pass(facts, capsys):
    words = [*CLUSTER, "--grad-accumulation", "4"]
    roomy = facts(*words)
    count, used = roomy["parameters"]["total"], roomy["memory_bytes"]["total"]
    tight_words = [*words, "--memory", str((used - 2 * count) / 0.9e9)]
    tight = facts(*tight_words)
    assert tight["memory_bytes"]["total"] == used - 4 * count
    assert (roomy["cluster"]["reductions_per_step"], tight["cluster"]["reductions_per_step"]) == (1, 4)
    sent, whole = (found["cluster"]["bytes_sent_per_gpu"] for found in (tight, roomy))
    assert sent["reduced"] == 4 * whole["reduced"] and sent["gathered"] == whole["gathered"]
    assert tight["cluster"]["seconds"]["communication"] > roomy["cluster"]["seconds"]["communication"]
    assert tight["largest_batch"]["batch_size"] >= 32
    main(tight_words)
    assert "gradients are reduced after each of the 4 passes" in capsys.readouterr().out
    main(words)
    assert "after each of" not in capsys.readouterr().out


def test_what_lmfast_cannot_combine_is_on_paper_only(capsys):
    main([*CLUSTER, "--tensor-parallel", "2"])
    assert "on paper" not in capsys.readouterr().out
    words = ["--parallel", "hsdp", "--gpus-per-node", "4", "--network", "400Gb/s"]
    main([*CLUSTER, "--tensor-parallel", "2", *words])
    assert "on paper only: lmfast does not combine hsdp with --tensor-parallel" in capsys.readouterr().out


def test_other_layouts(facts):
    hsdp = facts(*CLUSTER, "--parallel", "hsdp", "--gpus-per-node", "4", "--network", "400Gb/s")["cluster"]
    assert hsdp["network_bytes_per_second"] == 50e9 and hsdp["bytes_sent_per_gpu"]["replicas"] > 0
    split = facts(*CLUSTER, "--parallel", "auto", "--tensor-parallel", "2")
    assert split["cluster"]["parallel"] == "ddp" and split["memory_bytes"]["batch_size"] == 8
    assert split["cluster"]["bytes_sent_per_gpu"]["tensor"] > 0
    small = facts(*CLUSTER, "--parallel", "auto", "--memory", "0.5")
    assert small["cluster"]["parallel"] == "fsdp" and small["largest_batch"]["batch_size"] % 8 == 0
    assert "seconds" not in facts(*SMALL, "--gpus", "8")["cluster"]
    fp8 = facts(*SMALL, "--gpus", "8", "--dtype", "fp8", "--device", "H100", "--memory", "0.01")
    assert fp8["cluster"]["parallel"] == "ddp"  # as in training


@pytest.mark.parametrize(
    ("gpus", "split", "machine"), [(12, 1, 6), (12, 4, 4), (16, 1, 8), (6, 1, 6), (13, 1, 1), (32, 16, 16)]
)
def test_machines_divide_the_gpus_by_default(facts, gpus, split, machine):
    words = ["--gpus", gpus, "--tensor-parallel", split, "--batch-size", gpus, "--d-ff", "1408"]
    assert facts(*SMALL, *words)["cluster"]["gpus_per_node"] == machine


def test_settings_files_of_runs_on_several_gpus(facts, tmp_path, capsys):
    file, shape = (
        tmp_path / "run.yaml",
        "vocab_size: 1000\nd_model: 64\nnum_layers: 2\nnum_heads: 4\nbf16: true\n",
    )
    for setting, remedy in {
        "tensor_parallel: 2": "tensor_parallel 2 needs a multiple of 2 GPUs, not 1; add --gpus 2, or use",
        "parallel: hsdp": "parallel hsdp needs several machines; add --gpus 16, or use --parallel fsdp",
    }.items():
        file.write_text(f"{shape}{setting}\n")
        with pytest.raises(SystemExit):
            main(["--config", str(file)])
        assert remedy in capsys.readouterr().err
        gpus = remedy.partition("--gpus ")[2].partition(",")[0]
        assert facts("--config", file, "--gpus", gpus)["cluster"]["gpus"] == int(gpus)


def test_the_largest_batch_is_that_of_all_gpus(facts, capsys):
    fit = facts(*CLUSTER)["largest_batch"]
    assert fit["of"] == "all 8 GPUs together"
    assert "of" not in facts(*SMALL, "--device", "H100")["largest_batch"]
    main(CLUSTER)
    line = f"largest batch in 90% of 80 GB per GPU: {fit['batch_size']:,} sequences, of all 8 GPUs together"
    assert line in capsys.readouterr().out
    main([*CLUSTER, "--memory", "0.01"])
    assert "not even one sequence per data rank fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--link", "fast"], "link is 'fast'; give a rate such as 900GB/s (bytes) or 400Gb/s (bits)"),
        (["--link", "0GB/s"], "link is '0GB/s'; give a rate"),
        (["--network", "4Gb"], "network is '4Gb'; give a rate"),
        (["--gpus", "1"], "link has no effect with one GPU; add --gpus"),
        (["--gpus", "0"], "gpus is 0; it must be at least 1"),
        (["--gpus", "16"], "16 GPUs on machines of 8 also need the rate of the network"),
        (["--gpus", "12", "--gpus-per-node", "8"], "gpus 12 is not divisible by gpus_per_node 8; use a divisor of"),
        (["--gpus", "12", "--batch-size", "24"], "12 GPUs on machines of 6 also need the rate of the network"),
        (["--tensor-parallel", "3"], "tensor_parallel 3 needs a multiple of 3 GPUs, not 8; add --gpus 9, or use"),
        (["--tensor-parallel", "8", "--gpus-per-node", "4"], "tensor_parallel 8 does not divide gpus_per_node 4"),
        (["--tensor-parallel", "2", "--num-kv-heads", "1"], "tensor_parallel 2 is more than num_kv_heads 1, and a"),
        (["--tensor-parallel", "2", "--num-experts", "4"], "num_experts 4 does not work with tensor_parallel 2; use"),
        (["--tensor-parallel", "2", "--dtype", "fp8"], "fp8 does not work with tensor_parallel 2; use --dtype bf16"),
        (["--num-experts", "4", "--dtype", "fp8"], "fp8 does not support num_experts; use --dtype bf16"),
        (["--dtype", "fp8"], "fp8 is not supported with parallel fsdp, which gathers weights in bf16; use --dtype"),
        (["--batch-size", "12"], "batch_size 12 is not divisible by the 8 data ranks that share it"),
        (["--parallel", "hsdp"], "parallel hsdp needs several machines; add --gpus 16, or lower --gpus-per-node below 8"),
        (["--parallel", "hsdp", "--gpus-per-node", "1"], "parallel hsdp shards within a machine, but each"),
        (["--hours", "1"], "hours and gpus are both set"),
    ],
    ids=str,
)  # fmt: skip
def test_clusters_that_cannot_be(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main([*CLUSTER, *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_long_steps_are_printed_with_all_digits(capsys):
    """70B on 8 GPUs: 12.5 s a step."""
    shape = "--vocab-size 128256 --context-length 8192 --d-model 8192 --num-layers 80 --num-heads 64 --num-kv-heads 8"
    main([*shape.split(), *"--d-ff 28672 --gpus 8 --parallel fsdp --link 900GB/s --device H100".split()])
    text = capsys.readouterr().out
    assert "e+" not in text and "communication: 1,089 ms per step" in text
