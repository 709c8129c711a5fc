"""python -m lmfast.cli.recipes.stage FACTS COMMAND…: runs a command; writes the peak of the GPU's memory to FACTS."""

import json
import sys
from pathlib import Path

from lmfast.__main__ import main


def run(words: list[str]) -> None:
    facts, sys.argv = Path(words[0]), ["lmfast", *words[1:]]
    try:
        main()
    finally:
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            facts.write_text(json.dumps({"device_memory": torch.cuda.max_memory_reserved()}))


if __name__ == "__main__":
    run(sys.argv[1:])
