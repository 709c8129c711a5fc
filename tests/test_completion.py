"""completion.py: each shell's script, sourced in that shell and queried for completions."""

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from lmfast import completion

ASK_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_lmfast
printf '%s\\n' "${COMPREPLY[@]}"
"""
ASK_FISH = 'source $argv[1]; complete -C "$argv[2]"'


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    for shell in completion.SHELLS:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            completion.main([shell])
        (folder / shell).write_text(printed.getvalue())
    return folder


def ask(shell: str, scripts: Path, line: str, folder: Path) -> set[str]:
    """What a shell offers for the last word of a line, typed in `folder`."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = {
        "bash": ["bash", "--norc", "-c", ASK_BASH, "bash", scripts / "bash", *line.split(" ")],
        "fish": ["fish", "--no-config", "-c", ASK_FISH, scripts / "fish", line],
    }[shell]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=60)
    assert not run.stderr, run.stderr
    return {offer.split("\t")[0] for offer in run.stdout.split("\n") if offer}


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lmfast tr", {"train"}),
        ("lmfast tokenizer co", {"count", "compression"}),
        ("lmfast train --schedul", {"--schedule"}),
        ("lmfast train --schedule ", {"cosine", "linear", "wsd"}),
        ("lmfast train --lr 1e-3 --no-comp", {"--no-compile"}),
        ("lmfast flops --dtype f", {"fp8", "fp16", "fp32"}),
        ("lmfast tokenizer encode --engine d", {"dask"}),
        ("lmfast train --config quick", {"quickstart"}),
        ("lmfast train --config own", {"own.yaml"}),
        ("lmfast sweep learning", {"learning_rate"}),
        ("lmfast train --train-data token", {"tokens.npy"}),
        ("lmfast evaluate ru", {"runs/"}),
    ],
)
def test_completions(shell, scripts, tmp_path, line, offered):
    for name in ("own.yaml", "own.txt", "tokens.npy"):
        (tmp_path / name).touch()
    (tmp_path / "runs").mkdir()
    found = ask(shell, scripts, line, tmp_path)
    # bash itself appends / to a directory when it shows the completion.
    assert {offer if offer != "runs" else "runs/" for offer in found} == offered


def test_zsh_reads_its_script(scripts):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    code = 'autoload -Uz compinit; compinit -u -D; eval "$(<$1)"; print ${_comps[lmfast]} ${#_shtab_lmfast_train_options}'
    run = subprocess.run(
        ["zsh", "-f", "-c", code, "zsh", scripts / "zsh"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    name, options = run.stdout.split()
    assert not run.stderr and name == "_shtab_lmfast" and int(options) > 50


def test_every_completed_name_is_an_option():
    """Renaming an option must not silently lose its completion."""
    known: set[str] = set()

    def collect(parser) -> None:
        for action in parser._actions:
            known.add(action.dest)
            for subcommand in action.choices.values() if isinstance(action.choices, dict) else ():
                collect(subcommand)

    collect(completion._all_commands())
    assert not (completion.FILES | completion.FOLDERS) - known
