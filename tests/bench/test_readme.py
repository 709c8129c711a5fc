"""README's figures are exactly those of the saved files."""

import pytest

from bench import readme, results
from bench.results import Row
from lmfast.errors import UserError
from tests.bench.results import result, row, run, target_table


def test_readme_matches_the_saved_results():
    """`python -m bench.report --readme` after a file in bench/results has changed."""
    assert readme.section(readme.saved_results()) in readme.README.read_text(encoding="utf-8"), (
        "README.md differs from bench/results; run python -m bench.report --readme"
    )


def test_the_newer_of_two_files_is_quoted():
    old = target_table(row("encode A", 0.4), row("train", 1.0), source="tokenizer_a")
    new = target_table(row("encode A", 0.2), when="2026-11-24T08:00:00+00:00", source="tokenizer_b")
    for runs in ([old, new], [new, old]):
        text = readme.section(runs)
        assert "| encode A | 200 ms |" in text and "| 400 ms |" not in text and "| train | 1 s |" in text
        assert "bench/results/tokenizer_b.json" in text and "bench/results/tokenizer_a.json" in text


def test_only_training_steps_are_quoted_from_the_suite():
    step, count = result("step[small]", 0.5, {"LlamaForCausalLM": 1.2}), result("count[A-1]", 0.1)
    step.group = count.group = "training"
    text = readme.section([run(step, count, result("encode[A]", 0.7, {"gigatoken": 1.5}))])
    assert "| step[small] | 500 ms | LlamaForCausalLM 600 ms | 1.20 (1.20–1.20) |" in text
    assert "encode[A]" not in text and "count" not in text


def test_tables_have_a_fixed_order(tmp_path, monkeypatch):
    """Results at small sizes, from a trial, are not quoted."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    for hour, name in enumerate(
        ("training_x", "generation_x", "tokenizer_x", "tokenizer_x_small", "training_x_quick")
    ):
        when = f"2026-11-24T0{hour}:00:00+00:00"
        results.write(tmp_path / f"{name}.json", target_table(row(name, 1.0), when=when, source=name))
    section = readme.section(readme.saved_results())
    rows = [line.split(" | ")[0] for line in section.splitlines() if "_x" in line]
    assert rows == ["| tokenizer_x", "| training_x", "| generation_x"]


def test_tables_of_other_pages_are_not_quoted():
    elsewhere = [target_table(row(name, 1.0), cores=16, source=f"{name}_x") for name in readme.ELSEWHERE]
    section = readme.section([target_table(row("a", 1.0)), *elsewhere])
    assert (
        "| a |" in section
        and "_x.json" in section
        and not any(f"/{name}_" in section for name in readme.ELSEWHERE)
    )


def test_what_cannot_be_quoted_is_rejected():
    here, there = target_table(row("a", 1.0)), target_table(row("b", 1.0), cores=16)
    with pytest.raises(UserError, match=r"README quotes one machine, and bench/results has .* and "):
        readme.section([here, there])
    with pytest.raises(UserError, match="no comparison with a peer"):
        readme.section([target_table(row("a", 1.0, None))])


def test_without_a_gpu_result_gpus_are_not_measured():
    assert "GPUs: not measured" in readme.section([target_table(row("a", 1.0))])


def test_gpu_rows_with_targets_form_a_separate_table():
    rows = [Row("MFU", 1.0, "1 %", 2.0, 3.0), Row("speed", 3.0, "3 x", 2.0, 3.0), Row("figure", 3.0, "x")]
    on_gpu = target_table(*rows, source="gpu_h100", gpu="H100")
    text = readme.section([target_table(row("a", 1.0)), on_gpu])
    assert "GPUs: see below" in text and "On one H100, bf16" in text
    assert "| MFU | 1 % | at least 2, missed | [abc](bench/results/gpu_h100.json) |" in text
    assert "| speed | 3 x | at least 2 | [" in text and "figure" not in text


def test_a_readme_without_the_markers_is_unchanged(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"text {readme.BEGIN} no end")
    with pytest.raises(UserError, match="does not have the lines"):
        readme.refresh(path, "new")
    assert path.read_text() == f"text {readme.BEGIN} no end"
