"""Command lines of settings: both spellings of options, help with the defaults in effect, one-line errors."""

import pytest

from lmfast.cli.settings_line import field_docs, named_settings, parse
from lmfast.errors import UserError
from lmfast.evaluate import EvaluateSettings
from lmfast.flops import FlopsSettings
from lmfast.generate import GenerateSettings
from lmfast.settings import TrainSettings, flat_types, to_flat
from lmfast.training.post_training_settings import DPOSettings, SFTSettings


def line(*words, base=None):
    return parse(TrainSettings, list(words), "lmfast train", base)


def flat(*words):
    return to_flat(line(*words))


def help_of(cls, *words, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse(cls, ["--help", *words], "lmfast x")
    assert not stopped.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "cls", [TrainSettings, SFTSettings, DPOSettings, FlopsSettings, GenerateSettings, EvaluateSettings]
)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_names_and_explains_every_setting(cls, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    page = help_of(cls, capsys=capsys)
    assert max(map(len, page.splitlines())) < columns
    assert "_" not in "".join(word for word in page.split() if word.startswith("--"))
    for name, hint in flat_types(cls).items():
        option = f"--{'[no-]' if hint is bool else ''}{name.replace('_', '-')}"
        assert name == "run" or option in page.replace(",", " ").split(), name
    if cls is TrainSettings:
        assert "model options:" in page and field_docs(type(cls().model))["d_model"] in page


def test_help_shows_the_defaults_in_effect(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "c.yaml").write_text("d_model: 77\ncompile: true\n")
    page = help_of(TrainSettings, "--config", str(tmp_path / "c.yaml"), capsys=capsys)
    assert "width of the residual stream (default: 77)" in page
    assert "compile the training step with torch.compile (default: on)" in page
    assert "--wandb, --no-wandb [{off,online,offline}]" in page


def test_none_and_numbers_below_zero():
    assert line("--d-ff", "None", "--seed", "-1", "--min-lr=-1e-3").model.d_ff is None
    assert line("--seed", "-1").run.seed == -1


def test_a_run_is_an_argument_without_a_name():
    assert parse(EvaluateSettings, ["runs/a", "--samples", "2"], "lmfast evaluate").run == "runs/a"
    with pytest.raises(UserError, match="unknown argument 'b'"):
        parse(EvaluateSettings, ["a", "b"], "lmfast evaluate")


def test_both_spellings_and_equals():
    for words in (["--d-model", "64"], ["--d_model", "64"], ["--d-model=64"], ["--d_model=64"]):
        assert line(*words).model.d_model == 64


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("--lr", "learning_rate", 0.5),
        ("--train-data", "train_data_path", "x.npy"),
        ("--val_data", "val_data_path", "y.npy"),
        ("--checkpoint-dir", "out_dir", "runs/z"),
    ],
)
def test_aliases(alias, name, value):
    assert flat(alias, str(value))[name] == value


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ([], "off"),
        (["--wandb"], "online"),
        (["--wandb", "--compile"], "online"),
        (["--wandb", "offline"], "offline"),
        (["--wandb=offline"], "offline"),
        (["--no-wandb"], "off"),
    ],
)
def test_wandb_spellings(words, mode):
    assert flat(*words)["wandb"] == mode


def test_line_overrides_file_overrides_default(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("d_model: 64\nnum-heads: 4\nlearning_rate: 1e-3\n")
    settings = flat("--config", str(file), "--num-heads", "8")
    assert (settings["d_model"], settings["num_heads"], settings["learning_rate"]) == (64, 8, 1e-3)
    assert settings["num_layers"] == 12


def test_the_nearer_of_max_iters_and_total_tokens_decides(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("max_iters: 5\n")
    assert line("--config", str(file), "--total-tokens", "9").optimizer.max_iters is None
    file.write_text("total_tokens: 5\n")
    assert line("--config", str(file), "--max-iters", "9").optimizer.total_tokens is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--d-modle", "3"], "unknown option '--d-modle'; did you mean --d-model?"),
        (["--block-size", "3"], "did you mean --context-length?"),
        (["--epochs", "3"], "set the length of a run with max_iters"),
        (["--no-qk_nrm"], "unknown option '--no-qk_nrm'; did you mean --no-qk-norm?"),
        (["--temp", "1"], "unknown option '--temp'; see --help"),
        (["--d-model", "x"], "--d-model is 'x'; expected a whole number in digits"),
        (["--vocab-size", "4e3"], "--vocab-size is '4e3'; expected a whole number in digits"),
        (["--rope-theta", "1KB"], "--rope-theta is '1KB'; expected a number"),
        (["--logit-softcap", "x"], "--logit-softcap is 'x'; expected a number"),
        (["--norm", "x"], "--norm is 'x'; expected one of pre, post, none"),
        (["--d-model"], "--d-model"),
        (["stray"], "stray"),
        (["--config", "quikstart"], "did you mean quickstart?"),
    ],
)
def test_a_bad_command_line_is_one_line(words, message, capsys):
    with pytest.raises(UserError) as error:
        line(*words)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")


def test_given_names_resolves_aliases():
    assert named_settings(["--lr", "1", "--no-compile", "--d_model=3"], TrainSettings) == {
        "learning_rate",
        "compile",
        "d_model",
    }
