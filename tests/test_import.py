import importlib
import json

import pytest

from lmfast.interop.exporting import export_run
from lmfast.settings import read_model
from tests.interop.models import SMALL, make_run, random_model, tokenizer

main = importlib.import_module("lmfast.import").main


def test_options_reach_the_run(tmp_path, capsys):
    run = make_run(tmp_path / "run", random_model(SMALL), tokenizer())
    folder, output = export_run(run, output=tmp_path / "folder"), tmp_path / "new"
    main(f"{folder} --output {output} --context-length 32 --tokenizer none".split())
    assert capsys.readouterr().out == f"{output}\n"
    assert read_model(output).context_length == 32 and not (output / "tokenizer").exists()
    assert json.loads((output / "run.json").read_text()) == {"imported_from": str(folder)}


def test_a_folder_that_is_not_a_model_is_one_line(tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(SystemExit) as stop:
        main(f"{folder} --output {tmp_path}/run".split())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith(f"error: {folder}: contains no config.json")
    assert err.count("\n") == 1 and list(tmp_path.iterdir()) == [folder]
