import dataclasses
import sys

import pytest
import yaml

from lmfast.cli.settings_line import parse
from lmfast.errors import UserError
from lmfast.settings import (
    CONFIGS,
    TrainSettings,
    check_settings,
    find_config,
    flat_types,
    read_yaml,
    replace_flat,
    to_flat,
    write_yaml,
)


def line(*words, base=None):
    return parse(TrainSettings, list(words), "lmfast train", base)


def flat(*words):
    return to_flat(line(*words))


def test_documented_defaults():
    """GPT-2 small's shape at context 1024, and the documented intervals."""
    expected = {
        "context_length": 1024, "d_model": 768, "num_layers": 12, "num_heads": 12, "learning_rate": 1e-4,
        "batch_size": 32, "warmup_iters": 1000, "weight_decay": 0.1, "grad_clip": 1.0, "checkpoint_interval": 1000,
        "eval_interval": 100, "log_interval": 10, "wandb": "off", "device": "auto",
    }  # fmt: skip
    assert {name: flat()[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d_modle: 3", "unknown setting 'd_modle'; did you mean d_model?"),
        ("d_model: 3.5", "d_model is 3.5; expected a whole number"),
        ("d_model: yes", "d_model is true; expected a whole number"),
        ("d_model: [1, 2]", "d_model is [1, 2]; expected a whole number"),
        ("lr: fast", "learning_rate is fast; expected a number"),
        ("compile: 1", "compile is 1; expected true or false"),
        ("tokenizer: no", "tokenizer is false; expected text"),
        ("block-size: 8", "unknown setting 'block-size'; did you mean context_length?"),
        ("lr: 1\nlearning_rate: 2", "learning_rate is given twice, as 'lr' and 'learning_rate'"),
        ("d_model: 1\nd-model: 2", "d_model is given twice, as 'd_model' and 'd-model'"),
        ("config: x", "unknown setting 'config'"),
        ("norm: sandwich", "expected one of pre, post, none"),
        ("- a\n- b", "expected lines of `name: value`, found a list"),
        ("d_model", "expected lines of `name: value`, found only 'd_model'"),
        ("a: [", "not valid YAML"),
        ("[" * 5000, "not valid YAML: nested too deeply"),
        ("d_model: 2026-13-45", "not valid YAML: month must be in 1..12"),
        ("d_model: !!int x", "not valid YAML: invalid literal for int()"),
        ('out_dir: "a\\0b"', r'out_dir is "a\0b"; expected text'),
        ("D_Model: 3", "unknown setting 'D_Model'; did you mean d_model?"),
        ("extend: quickstart", "unknown setting 'extend'; did you mean extends?"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(file, TrainSettings)
    assert str(file) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_numbers_are_coerced_by_type(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("learning_rate: 1e-3\ntotal_tokens: 3.2768e8\nwandb: off\nnorm: none\nd_ff: null\n")
    assert read_yaml(file, TrainSettings) == {
        "learning_rate": 1e-3, "total_tokens": 327_680_000, "wandb": "off", "norm": "none", "d_ff": None,
        "max_iters": None,
    }  # fmt: skip


def test_a_file_knows_the_lines_aliases_and_spellings(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("lr: 1e-3\ntrain-data: a.npy\nval_data: b.npy\ncheckpoint_dir: runs/x\nwandb: true\n")
    assert read_yaml(file, TrainSettings) == {
        "learning_rate": 1e-3, "train_data_path": "a.npy", "val_data_path": "b.npy", "out_dir": "runs/x",
        "wandb": "online",
    }  # fmt: skip


def test_yaml_round_trip(tmp_path):
    settings = line("--d-model", "64", "--lr", "1e-5", "--qk-norm", "--out-dir", "runs/ä")
    write_yaml(tmp_path / "c.yaml", settings)
    assert replace_flat(TrainSettings(), read_yaml(tmp_path / "c.yaml", TrainSettings)) == settings


def test_names_are_unique_and_flat():
    def count(cls):
        return sum(
            count(f.default_factory) if f.default_factory is not dataclasses.MISSING else 1
            for f in dataclasses.fields(cls)
        )

    assert len(flat_types(TrainSettings)) == count(TrainSettings)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_reads(path):
    from lmfast.training.post_training_settings import DPOSettings, SFTSettings
    from lmfast.training.resolve import resolve

    cls = {"sft": SFTSettings, "dpo": DPOSettings}.get(path.stem, TrainSettings)
    settings = replace_flat(cls(), read_yaml(path, cls))
    assert resolve(settings, 4096).model.vocab_size
    assert find_config(path.stem) == path
    assert yaml.safe_load(path.read_text())


def chain(folder, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_file_extends_another(tmp_path):
    chain(
        tmp_path,
        a="extends: sub/b.yaml\nlr: 2e-3\nd_model: 32",
        c="d_model: 64\nnum_heads: 4\nmax_iters: 7\nbatch_size: 2",
    )
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("extends: ../c.yaml\nlearning_rate: 1e-3\ntotal_tokens: 100\n")
    values = read_yaml(tmp_path / "a.yaml", TrainSettings)
    assert values == {
        "batch_size": 2, "d_model": 32, "learning_rate": 2e-3, "num_heads": 4, "total_tokens": 100,
        "max_iters": None,
    }  # fmt: skip
    settings = line("--config", str(tmp_path / "a.yaml"), "--num-heads", "2")
    assert (settings.model.d_model, settings.model.num_heads, settings.optimizer.max_iters) == (32, 2, None)
    write_yaml(tmp_path / "config.yaml", settings)
    assert "extends" not in (tmp_path / "config.yaml").read_text()
    assert read_yaml(tmp_path / "config.yaml", TrainSettings)["batch_size"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: b.yaml", "a.yaml: extends itself through 2 files"),
        ("extends: a.yaml", "a.yaml: extends itself through 1 file;"),
        ("extends: quikstart", "a.yaml: extends quikstart: no such settings file; did you mean quickstart?"),
        ("extends: [b.yaml]", "a.yaml: extends is [b.yaml]; expected the name of one settings file"),
        ("extends: c.yaml", "c.yaml: unknown setting 'd_modle'; did you mean d_model?"),
    ],
)
def test_what_cannot_be_extended_is_one_line(tmp_path, text, message):
    chain(tmp_path, a=text, b="extends: a.yaml", c="d_modle: 3")
    with pytest.raises(UserError) as error:
        read_yaml(tmp_path / "a.yaml", TrainSettings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_chain_of_files_may_be_longer_than_the_recursion_limit(tmp_path):
    length = sys.getrecursionlimit() + 1
    chain(
        tmp_path,
        **{f"x{i}": f"extends: x{i + 1}.yaml" for i in range(length)},
        **{f"x{length}": "d_model: 64"},
    )
    assert read_yaml(tmp_path / "x0.yaml", TrainSettings) == {"d_model": 64}


def test_ablations_are_the_quickstart_with_the_change_they_name():
    quickstart = read_yaml(CONFIGS / "quickstart.yaml", TrainSettings)
    for path in CONFIGS.glob("ablation_*.yaml"):
        changed = {k for k, v in read_yaml(path, TrainSettings).items() if quickstart.get(k) != v}
        assert 1 <= len(changed) <= 2, path


def test_an_unknown_file_suggests_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    chain(tmp_path, here="d_model: 8", **{"configs/mine": "d_model: 16"})
    for name, meant in (
        ("mine", "configs/mine.yaml"),
        ("here", "here.yaml"),
        ("configs/mine", "configs/mine.yaml"),
    ):
        with pytest.raises(UserError, match=f"^{name}: no such settings file; did you mean {meant}[?]$"):
            find_config(name)
    with pytest.raises(UserError, match=r"^'': no such settings file; the built-in ones are .*quickstart"):
        find_config("")


def test_a_path_that_is_not_utf_8_survives_the_round_trip(tmp_path):
    settings = line("--train-data", "\udcff.npy")
    write_yaml(tmp_path / "c.yaml", settings)
    assert read_yaml(tmp_path / "c.yaml", TrainSettings)["train_data_path"] == "\udcff.npy"


def test_a_part_of_a_file_is_checked_like_a_file():
    assert check_settings({"lr": "1e-3", "total-tokens": "1e6"}, "s", TrainSettings) == {
        "learning_rate": 1e-3,
        "total_tokens": 10**6,
        "max_iters": None,
    }
    with pytest.raises(UserError, match=r"s: unknown setting 'd_modle'; did you mean d_model\?"):
        check_settings({"d_modle": 3}, "s", TrainSettings)
