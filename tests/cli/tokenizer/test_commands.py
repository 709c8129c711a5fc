"""commands.py: the parts that the command line (test_main.py) does not show by itself."""

from lmfast.cli.tokenizer import commands
from lmfast.cli.tokenizer.commands import quote_token, rate_line


def test_rates():
    assert rate_line(100_000_000, 1.0) == "100.0 MB/s"
    assert rate_line(100_000_000, 2.0, 1e8) == (
        "50.0 MB/s (after start-up 100.0 MB/s; the Pile, 825 GB, would take 2 h 18 min)"
    )


def test_quote_token():
    assert quote_token(b" a\n\xff") == "' a\\n\\\\xff'"
    assert len(quote_token(b"x" * 500)) == 61 and commands.quote_token(b"x" * 500, 100).count("x") == 98
