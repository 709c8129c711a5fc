"""Numbers with their nouns: "1 row", "2,000 rows"."""


def counted(number: int, noun: str) -> str:
    """The number with its thousands marked, and the noun (singular, of a regular plural) in the form that goes with it."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
