"""README's figures are those of the saved files, and no others."""

import json

import pytest

from bench import readme
from lmfast.errors import UserError
from tests.bench.results import result, row, run, target_table


def test_readme_is_what_the_saved_files_say():
    """`python -m bench.report --readme` after a file in bench/results has changed."""
    assert readme.section(readme.results()) in readme.README.read_text(encoding="utf-8"), (
        "README.md differs from bench/results; run python -m bench.report --readme"
    )


def test_the_newer_of_two_files_is_quoted():
    old = target_table(row("encode A", 0.4), row("train", 1.0), when="2026-11-23T08:00:00+00:00")
    new = target_table(row("encode A", 0.2), when="2026-11-24T08:00:00+00:00")
    for runs in (
        [old | {"source": "t_a"}, new | {"source": "t_b"}],
        [new | {"source": "t_b"}, old | {"source": "t_a"}],
    ):
        text = readme.section(runs)
        assert "| encode A | 200 ms |" in text and "| 400 ms |" not in text and "| train | 1 s |" in text
        assert "bench/results/t_b.json" in text and "bench/results/t_a.json" in text


def test_of_the_suite_the_training_steps_are_quoted():
    steps = run(result("step[small]", 0.5, {"LlamaForCausalLM": 1.2}), result("count[A-1]", 0.1))
    for one in steps["benchmarks"]:
        one["fullname"] = one["fullname"].replace("test_tokenizer", "test_training")
    steps["benchmarks"].append(result("encode[A]", 0.7, {"gigatoken": 1.5}))
    text = readme.section([steps | {"source": "suite"}])
    assert "| step[small] | 500 ms | LlamaForCausalLM 600 ms | 1.20 (1.10–1.30) |" in text
    assert "encode[A]" not in text and "count" not in text


def test_tables_stand_in_one_order_whatever_was_measured_last(tmp_path, monkeypatch):
    """Files of small sizes, which lie there after a trial, are not quoted."""
    monkeypatch.setattr(readme.saved, "RESULTS", tmp_path)
    for hour, name in enumerate(
        ("training_x", "generation_x", "tokenizer_x", "tokenizer_x_small", "training_x_quick")
    ):
        one = target_table(row(name, 1.0), when=f"2026-11-24T0{hour}:00:00+00:00")
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    rows = [line.split(" | ")[0] for line in readme.section(readme.results()).splitlines() if "_x" in line]
    assert rows == ["| tokenizer_x", "| training_x", "| generation_x"]


def test_what_cannot_be_quoted_is_refused():
    here, there = (target_table(row(name, 1.0)) | {"source": "t_x"} for name in ("a", "b"))
    with pytest.raises(UserError, match=r"README quotes one machine, and bench/results has .* and "):
        readme.section([here, there | {"cores": 16}])
    with pytest.raises(UserError, match=r"t_x.json: has no datetime"):
        readme.section([target_table(row("a", 1.0), when=None) | {"source": "t_x"}])
    with pytest.raises(UserError, match="no comparison with a peer"):
        readme.section([target_table(row("a", 1.0, None)) | {"source": "t_x"}])


def test_gpus_are_not_measured_until_one_is():
    here = target_table(row("a", 1.0)) | {"source": "t_x"}
    assert "GPUs: not measured" in readme.section([here])


def test_a_gpus_rows_with_targets_are_a_table_of_their_own():
    here = target_table(row("a", 1.0)) | {"source": "t_x"}
    judged = {"must": 2.0, "aim": 3.0, "at_most": False, "data": {}}
    rows = [
        judged | {"name": "MFU", "value": 1.0, "shown": "1 %", "verdict": "missed"},
        judged | {"name": "speed", "value": 3.0, "shown": "3 x", "verdict": "aim"},
        judged | {"name": "figure", "value": 3.0, "shown": "x", "verdict": "-", "must": None, "aim": None},
    ]
    on_gpu = here | {"gpu": "H100", "source": "gpu_h100", "rows": rows}
    text = readme.section([here, on_gpu])
    commit = on_gpu["commit"]
    assert "GPUs: see below" in text and "On one H100, bf16" in text
    assert f"| MFU | 1 % | at least 2, missed | [{commit}](bench/results/gpu_h100.json) |" in text
    assert "| speed | 3 x | at least 2 | [" in text and "figure" not in text


def test_a_readme_without_the_markers_is_left_alone(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"text {readme.BEGIN} no end")
    with pytest.raises(UserError, match="does not have the lines"):
        readme.refresh(path, "new")
    assert path.read_text() == f"text {readme.BEGIN} no end"
