"""aot.py: kernels compiled without a GPU, with samples of what `python -m lmfast_kernels.aot` compiles."""

import json
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed on this platform")
if sys.platform != "linux":
    pytest.skip("Triton's assembler comes with its Linux package", allow_module_level=True)

import torch

from lmfast_kernels import aot, aot_cases

SAMPLE = {
    "rms_norm": "bfloat16 width 4096 + residual",
    "swiglu": "bfloat16 width 2560",
    "rope": "bfloat16 head_dim 64",
    "fp8_cast": "bfloat16 768 to torch.float8_e5m2",
    "split_heads": "bfloat16 head_dim 64",
    "attention": "bfloat16 head_dim 64",
    "decode_attention": "bfloat16 head_dim 128, 32/8 heads, batch 1",
    "rope_append": "bfloat16 head_dim 64, 12/12 heads, batch 1",
    "decode_linear": "bfloat16 1 x 2560 x 768, swiglu",
    "linear_cross_entropy": "bfloat16 vocabulary 50304",
}


def of(operator, label):
    return [case for case in aot_cases.cases(operator) if case.label == label]


@pytest.mark.parametrize("operator", SAMPLE)
def test_no_spills_on_hopper(operator):
    cases = of(operator, SAMPLE[operator])
    table = [entry for case in cases for entry in aot.compile_case(case, "sm_90")]
    assert table, f"no case of {operator} is called {SAMPLE[operator]!r}"
    for entry in table:
        assert entry.sound, aot._row(entry)
        assert entry.blocks_per_sm >= 1 and entry.registers > 0
    if operator == "attention":
        assert {entry.kernel for entry in table} == {"attention_forward", "attention_dq", "attention_dkdv"}
        assert all(entry.instructions == "HGMMA" for entry in table)


def test_every_architecture_uses_its_matrix_instruction():
    case = aot_cases.Case("attention", "forward only", lambda: forward(64))

    def forward(head_dim):
        q = torch.empty(1, 2, 256, head_dim, dtype=torch.bfloat16, device="meta")
        return aot_cases.attention_forward.body(q, q, q, None, True, 0.125, 0)

    found = {name: aot.compile_case(case, name)[0].instructions for name in aot_cases.ARCHITECTURES}
    assert found == {
        "sm_80": "HMMA",
        "sm_90": "HGMMA",
        "sm_100": "UTCHMMA",
        "sm_89": "HMMA",
        "sm_120": "HMMA",
    }


def test_the_widest_tiles_fit_a_consumer_gpu():
    (case,) = of("attention", "bfloat16 head_dim 128")
    for entry in aot.compile_case(case, "sm_120"):
        assert entry.sound and entry.shared_bytes <= 99 * 1024, aot._row(entry)


@pytest.mark.parametrize(
    "operator",
    [
        "attention",
        "decode_attention",
        "decode_linear",
        "rope",
        "rope_append",
        "split_heads",
        "linear_cross_entropy",
    ],
)
def test_sizes_of_one_compile(operator):
    """With all sizes 1: Triton makes constants of arguments that equal 1, and the interpreter does not."""

    def one(*shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype, device="meta")

    x, long = one(1, 1, 1, 2), torch.int64

    def launch():
        if operator == "attention":
            ids = one(1, 1, dtype=long)
            _, lse = aot_cases.attention_forward.body(x, x, x, ids, True, 1.0, 0)
            aot_cases.attention_backward.body(x, x, x, x, x, lse, ids, True, 1.0, 0)
        elif operator == "decode_attention":
            aot_cases._decode.body(one(1, 1, 2), x, x, one(1, dtype=long), 0)
        elif operator == "decode_linear":
            row, norm = one(1, 1), one(1, dtype=torch.float32)
            aot_cases._product.body(row, row, norm, row, 1e-5, False)
            aot_cases._product.body(one(1, 2), row, None, None, 0.0, True)
        elif operator == "rope":
            table = one(1, 1, dtype=torch.float32)
            aot_cases._rope.body(x, x, table, table, one(1, 1, dtype=long), False)
        elif operator == "split_heads":
            table = one(1, 1, dtype=torch.float32)
            aot_cases._join_heads.body(x, x, x, table, table)
        elif operator == "rope_append":
            table, row = one(1, 1, dtype=torch.float32), one(1, 1, 2)
            aot_cases._rope_append.body(row, row, row, table, table, one(1, dtype=long), x, x)
        else:
            aot_cases._loss.body(one(1, 1), one(1, 1), one(1, dtype=long), 1, None, 0.0, torch.bfloat16, True)

    table = aot.compile_case(aot_cases.Case(operator, "ones", launch), "sm_90")
    assert table and all(entry.sound for entry in table)


def test_spills_and_shared_memory_limits():
    entry = aot.Compiled("sm_90", "x", "x", "x", "", 255, aot.SPILL_LIMIT, 227 * 1024, 1, "-")
    assert entry.sound
    over = aot.Compiled("sm_90", "x", "x", "x", "", 255, aot.SPILL_LIMIT + 1, 0, 1, "-")
    big = aot.Compiled("sm_80", "x", "x", "x", "", 255, 0, 164 * 1024, 1, "-")
    local = aot.Compiled("sm_90", "x", "x", "x", "", 255, 0, 0, 1, "-", aot.LOCAL_LIMIT + 1)
    unwritten = aot.Compiled("sm_90", "x", "x", "x", "", 255, 0, 0, 1, "-", 0, 1)
    assert not any(entry.sound for entry in (over, big, local, unwritten))
    assert "over the limit" in aot._row(over) and "never written" in aot._row(unwritten)


def test_every_candidate_tile_is_compiled_for_hopper():
    tiles = [case for case in aot_cases.cases("attention") if " tile " in case.label]
    assert len(tiles) == sum(
        len(t) - 1 for kernels in aot_cases.CANDIDATES.values() for t in kernels.values()
    )
    assert all(case.architectures == ("sm_90",) for case in tiles)
    (case,) = (case for case in tiles if case.label == "bfloat16 head_dim 64, dq tile 64,64,4,2")
    (entry,) = aot.compile_case(case, "sm_90")
    assert (
        entry.sound and entry.kernel == "attention_dq" and entry.config == "D=64 M=64 N=64 warps=4 stages=2"
    )


def test_every_operator_has_cases():
    assert {case.operator for case in aot_cases.cases()} == set(aot.backend.CHOICES)


def test_command_writes_json(tmp_path, monkeypatch, capsys):
    sample = of("swiglu", SAMPLE["swiglu"])
    monkeypatch.setattr(aot, "cases", lambda only=None: sample)

    class Here:  # instead of a pool, whose spawned workers would not see the patch
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        imap = staticmethod(map)

    monkeypatch.setattr(aot.multiprocessing, "get_context", lambda _: type("Context", (), {"Pool": Here}))
    path = tmp_path / "table.json"
    assert aot.main(["--arch", "sm_90", "--only", "swiglu", "--json", str(path)]) == 0
    assert [entry["kernel"] for entry in json.loads(path.read_text())] == [
        "swiglu_forward",
        "swiglu_backward",
    ]
    assert "2 kernels compiled, 0 over" in capsys.readouterr().out


def test_fp8_is_compiled_for_architectures_that_support_it():
    fp8 = [case for case in aot_cases.cases() if "fp8" in f"{case.operator} {case.label}"]
    assert len(fp8) >= 10
    assert all(set(case.architectures) == {"sm_89", "sm_90", "sm_100", "sm_120"} for case in fp8)
