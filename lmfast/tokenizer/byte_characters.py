"""GPT-2's byte-to-unicode map: how vocab.json, merges.txt and tokenizer.json spell bytes as printable characters.

Source: openai/gpt-2 encoder.py.
"""

import functools


@functools.lru_cache(maxsize=1)
def byte_characters() -> list[str]:
    """The character of each byte: printable Latin-1 characters are themselves, the other 68 bytes U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    characters = {byte: chr(byte) for byte in printable}
    characters |= {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


@functools.lru_cache(maxsize=1)
def _character_bytes() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def spell(token: bytes) -> str:
    """b" the\\n" → "ĠtheĊ"."""
    characters = byte_characters()
    return "".join([characters[byte] for byte in token])


def unspell(text: str) -> bytes | None:
    """The inverse of `spell`; None if a character is not in the map."""
    table = _character_bytes()
    try:
        return bytes(map(table.__getitem__, text))
    except KeyError:
        return None
