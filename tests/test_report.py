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


def test_the_loss_of_every_token(trained_run, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 5)
    output = tmp_path / "tokens.html"
    main(["--tokens", str(trained_run), str(tmp_path / "text.txt"), "--output", str(output)])
    printed = capsys.readouterr().out
    assert "nats per token" in printed and "bits per byte" in printed and printed.endswith(f"{output}\n")
    page = output.read_text()
    assert page.count('title="') > 10 and "By position" in page and printed.splitlines()[0] in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN"], "takes a run and a text file, not 1 path"),
        (["RUN", "missing.txt"], "missing.txt"),
        (["RUN", "empty.txt"], "is empty"),
        (["empty.txt", "text.txt"], "empty.txt"),
        (["RUN", "tokens.npy"], "tokens.npy: .npy files are not text"),
        (["RUN", "packed.txt"], "packed.txt: is gzip, not UTF-8 text"),
        (["RUN", "text.txt", "--output", "text.txt"], "text.txt"),
        (["RUN", "text.txt", "--output", "no/page.html"], "does not exist"),
    ],
)
def test_bad_input_for_the_loss_of_tokens(words, message, trained_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "text.txt").write_text("a text")
    (tmp_path / "packed.txt").write_bytes(b"\x1f\x8b\x08 packed")
    (tmp_path / "tokens.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(SystemExit) as stop:
        main(["--tokens", *(str(trained_run) if word == "RUN" else word for word in words)])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and not printed.out
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and message in printed.err
    assert (tmp_path / "text.txt").read_text() == "a text" and not (tmp_path / "tokens.html").exists()


def test_the_default_page_of_tokens_and_a_text_that_may_not_be_one(
    trained_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.html").write_text("of runs")
    (tmp_path / "text.txt").write_bytes(b"caf\xe9 au lait\0")
    main(["--tokens", str(trained_run), "text.txt"])
    printed = capsys.readouterr()
    assert printed.out.endswith("tokens.html\n") and (tmp_path / "tokens.html").is_file()
    assert "contains zero bytes" in printed.err and "not valid UTF-8 at byte 3" in printed.err
    assert (tmp_path / "report.html").read_text() == "of runs"
