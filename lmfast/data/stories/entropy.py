"""The entropy of the built-in stories in a token file, from the summaries next to the file and next to its text."""

from pathlib import Path

from lmfast.files import read_json


def known_entropy(tokens: str | Path) -> float | None:
    """The entropy in bits per byte of the built-in stories that a token file was made from; None for other files."""
    summary = read_json(Path(f"{tokens}.json")) or {}
    facts = read_json(Path(f"{summary.get('source')}.json")) if "source" in summary else None
    if not isinstance(facts, dict) or "grammar" not in facts or facts.get("bytes") != summary.get("bytes"):
        return None
    return facts.get("bits_per_byte")
