"""Numbers with their nouns: "1 row", "2,000 rows"."""


def counted(number: int, noun: str) -> str:
    """The number with thousands separators and the noun, given in the singular, with a plural s if needed."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
