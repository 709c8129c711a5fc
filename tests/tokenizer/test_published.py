"""One published tokenizer of each family compared with its own software: `pytest -m published`.

Downloads what .benchmarks/published (or $LMFAST_PUBLISHED) lacks. Files that no package contains are put there by hand.
"""

import os
from pathlib import Path

import pytest

from bench import machine, tokenizer_files
from lmfast.errors import UserError

pytestmark = pytest.mark.published
FOLDER = Path(os.environ.get("LMFAST_PUBLISHED") or machine.ROOT / ".benchmarks" / "published")
FAMILIES = {
    "Llama 3": "llama3_1.json",
    "Qwen": "qwen.tiktoken",
    "Qwen 2 and 3": "qwen3.json",
    "DeepSeek V3": "deepseek_v3.json",
    "GPT-4o": "gpt4o.json",
    "gpt-oss": "gptoss.json",
    "Whisper": "whisper_multilingual.tiktoken",
    "GPT-NeoX": "gpt_neox.json",
    "StarCoder": "starcoder.json",
    "SmolLM": "smollm2.json",
    "Kimi": "kimi",
}


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_ids_and_texts_are_those_of_its_own_software(name, monkeypatch):
    tokenizer_parity = pytest.importorskip("bench.tokenizer_parity")
    try:
        tokenizer_files.download(FOLDER, [name])
    except UserError as error:
        pytest.skip(str(error))
    if not (FOLDER / name).exists():
        pytest.skip(f"{FOLDER / name}: does not exist, and no package contains it")
    monkeypatch.setattr(tokenizer_parity, "RANDOM", 500)
    row = tokenizer_parity.measured(FOLDER / name)
    assert not row.wrong, row.line
