import re

import numpy as np
import pytest

from lmfast.cli import token_page as pages
from lmfast.cli.token_page import shade, token_page
from lmfast.evaluation.token_losses import TokenLosses
from tests.interop.models import tokenizer


def page(ids: list[int], losses: list[float]) -> str:
    found = TokenLosses(np.array(ids), np.array(losses), np.arange(1, len(ids) + 1))
    return token_page(tokenizer(), "a <title>", "about & more", found)


def test_tokens_are_coloured_by_their_loss():
    text = page([60, 256, 10, 200], [0.25, 9.5, 3.0, 0.0])  # <, ab, newline, a byte that is no UTF-8
    (shown,) = re.findall("<pre>(.*)</pre>", text, re.DOTALL)
    assert re.findall('class="l(\\d)" title="([^"]*)">(.*?)</b>', shown, re.DOTALL) == [
        ("0", "0.25 nats, 77.9 %", "&lt;"),
        ("9", "9.50 nats, &lt; 0.01 %", "ab"),
        ("3", "3.00 nats, 4.98 %", "<i>⏎</i>\n"),
        ("0", "0.00 nats, 100 %", "\\xc8"),
    ]
    assert "a &lt;title&gt;" in text and "about &amp; more" in text
    assert "http" not in text  # opens offline


def test_tokens_that_share_a_character():
    text = page([97, 0xC3, 0xA9, 97], [0.1, 4.5, 0.2, 0.3])
    assert '<b class="l4 s" title="4.50 nats, 1.11 %, part of é"><i>·</i></b>' in text
    assert '<b class="l0 s" title="0.20 nats, 81.9 %, part of é">é</b>' in text
    hardest, by_id = text.split("Hardest tokens")[1].split("Ids with the most loss")
    assert '<tr><td class=t>byte c3 of "é"</td><td class=t>a</td><td>4.50</td>' in hardest
    assert "<td class=t>byte c3</td>" in by_id and "\\x" not in text


def test_hard_tokens_are_listed_with_what_precedes_them():
    text = page([97, 98, 99, 100], [0.1, 0.2, 7.5, 0.3])
    assert '<tr><td class=t>"c"</td><td class=t>ab</td><td>7.50</td>' in text


def test_long_texts_are_cut(monkeypatch):
    monkeypatch.setattr(pages, "SHOWN", 2)
    text = page([97] * 5, [1.0] * 5)
    assert text.count('title="') == 2 and "3 more tokens" in text and "<td>5</td>" in text


@pytest.mark.parametrize(
    ("loss", "expected"), [(0.0, 0), (-1e-9, 0), (0.99, 0), (1.0, 1), (9.99, 9), (500.0, 9)]
)
def test_shades(loss, expected):
    assert shade(loss) == expected
