import json
from dataclasses import replace

import pytest

from lmfast.export import main
from tests.interop.models import SMALL, make_run, random_model, tokenizer


def test_options_reach_the_folder(tmp_path, capsys):
    run = make_run(tmp_path / "run", random_model(SMALL), tokenizer())
    output = tmp_path / "folder"
    main(f"{run} --format hf --output {output} --dtype bf16 --max-shard-size 20kB".split())
    assert capsys.readouterr().out == f"{output}\n"
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    assert len(list(output.glob("model-*.safetensors"))) > 2


def test_a_setting_without_a_counterpart_is_one_line(tmp_path, capsys):
    run = make_run(tmp_path / "run", random_model(replace(SMALL, ffn="relu2")), tokenizer())
    with pytest.raises(SystemExit) as stop:
        main(f"{run} --format hf --output {tmp_path}/folder".split())
    err = capsys.readouterr().err
    assert (
        stop.value.code == 2 and err.startswith(f"error: {run}: ffn is relu2, which") and err.count("\n") == 1
    )
    assert {p.name for p in tmp_path.iterdir()} == {"run"}


def test_a_gguf_file(tmp_path, capsys):
    gguf = pytest.importorskip("gguf")
    run = make_run(tmp_path / "run", random_model(SMALL), tokenizer())
    output = tmp_path / "new/model.gguf"
    main(f"{run} --format gguf --output {output} --quantize q8_0".split())
    assert capsys.readouterr().out == f"{output}\n"
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(output).tensors}
    assert types["token_embd.weight"] == "Q8_0"
    before = output.read_bytes()
    for words, error in (
        ("gguf", f"{output}: already exists; remove it, or choose another --output"),
        (f"gguf --output {run}/x", f"{run}/x: is in the input, {run}; choose another --output"),
        ("gguf --dtype bf16", "--dtype is not an option of format gguf; remove it"),
        ("gguf --max-shard-size 1GB", "--max-shard-size is not an option of format gguf; remove it"),
        ("hf --quantize f16", "--quantize is not an option of format hf; remove it"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(f"{run} --output {output} --format {words}".split())
        assert stop.value.code == 2 and capsys.readouterr().err == f"error: {error}\n"
    assert output.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"run", "new"}
