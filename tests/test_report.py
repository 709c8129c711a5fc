import pytest

from lmfast.report import main


def test_runs_on_one_page(trained_run, tmp_path, capsys):
    main([str(trained_run), str(trained_run), "--output", str(tmp_path / "page.html")])
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text().count("<svg") >= 4


def test_a_folder_that_is_not_a_run_is_rejected(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--output", str(tmp_path / "page.html")])
    assert stop.value.code == 2 and "not a run folder" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "arguments are required: RUN"), (["a", "--ouptut", "b"], "did you mean --output?")],
)
def test_a_bad_command_line_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err
