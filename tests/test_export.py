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
