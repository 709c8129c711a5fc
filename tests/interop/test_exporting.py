import os

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file

from lmfast import export_run, import_model
from lmfast.errors import UserError
from tests.interop.models import SMALL, make_run, random_model, tokenizer


def test_a_run_becomes_a_folder(tmp_path):
    model = random_model(SMALL)
    run = make_run(tmp_path / "run", model, tokenizer())
    output = export_run(run, output=tmp_path / "new/folder", dtype="bf16")
    assert output == tmp_path / "new/folder" and os.listdir(tmp_path / "new") == ["folder"]
    assert {p.name for p in output.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert len({p.stat().st_mode for p in output.iterdir()}) == 1  # the weights are not private
    assert load_file(output / "model.safetensors")["lm_head.weight"].equal(model.head.weight.bfloat16())


def test_a_run_without_a_tokenizer(tmp_path):
    run = make_run(tmp_path / "run", random_model(SMALL), None)
    output = export_run(run, output=tmp_path / "folder")
    assert not (output / "tokenizer.json").exists()


def test_a_failure_leaves_nothing_behind(tmp_path):
    run = make_run(tmp_path / "run", random_model(SMALL), tokenizer())
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("swiglu", "relu2"))
    with pytest.raises(UserError, match="has another model shape"):
        export_run(run, output=tmp_path / "new/folder")
    assert os.listdir(tmp_path) == ["run"]


def test_an_existing_output_is_kept(tmp_path):
    run = make_run(tmp_path / "run", random_model(SMALL), tokenizer())
    (tmp_path / "folder").mkdir()
    for output, problem in ((run, "is in the input"), (tmp_path / "folder", "already exists; remove it")):
        with pytest.raises(UserError, match=f"^{output}: {problem}, .*choose another --output"):
            export_run(run, output=output)
    assert (run / "config.yaml").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"format": "onnx"}, "format is 'onnx'; it must be one of hf, gguf"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16'; it must be one of fp32, bf16, fp16"),
        ({"format": "gguf", "quantize": "q4"}, "quantize is 'q4'; it must be one of f32, f16, bf16, q8_0"),
    ],
)
def test_unknown_choices_are_rejected(tmp_path, options, reason):
    with pytest.raises(UserError, match=reason):
        export_run(tmp_path / "run", output=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", random_model(SMALL), tokenizer())
    folder = export_run(run, output=tmp_path / "folder")

    def full(*arguments):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    for write, source in ((export_run, run), (import_model, folder)):
        with pytest.raises(UserError, match=r"out: cannot be written \(.*No space left"):
            write(source, output=tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["folder", "run"]
