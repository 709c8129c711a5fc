"""html_page.py: the page has every token once, marks those with loss, and no text can break it."""

import html
import json
import re

import numpy as np
import pytest

from lmfast.cli.tokenizer.html_page import html_page
from lmfast.cli.tokenizer.rendering import Shown
from lmfast.tokenizer.bpe import Tokenizer

VOCAB = {i: bytes([i]) for i in range(256)} | {256: b"</"}
HARD = "a<b>&amp;\n</script><!-- é 'x' \"y\""
TOKEN = re.compile(r'<b class="([a-z0-9 ]+)" data-i="(\d+)">(.*?)</b>', re.DOTALL)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCAB, [(b"<", b"/")], ["<|endoftext|>", "<|user|>"])


def page_of(tokenizer, *documents: Shown, limit: int = 1000) -> str:
    return html_page(tokenizer, "x & <y>.txt", "about", documents, limit)


def test_every_token_appears_in_order(tokenizer):
    ids = np.array(tokenizer.encode(f"{HARD}<|endoftext|>"))
    page = page_of(tokenizer, Shown("document 7", ids, facts=["<fact>"]))
    tokens = TOKEN.findall(page.split("<section")[1])
    assert [int(token) for _, token, _ in tokens] == ids.tolist()
    texts = [html.unescape(text.replace("<i>⏎</i>", "")) for _, _, text in tokens]
    assert "".join(texts) == HARD.replace("é", "\\xc3\\xa9") + "<|endoftext|>"
    assert [kind for kind, _, _ in tokens][-1] == "s" and tokens[0][0] == "c0" and tokens[1][0] == "c1"
    assert "&lt;fact&gt;" in page and "x &amp; &lt;y&gt;.txt" in page and 'data-n="7"' in page
    assert page.count("</script>") == 1, "the text ended the script"


def test_the_table_of_tokens_is_json(tokenizer):
    page = page_of(tokenizer, Shown("document 0", np.array(tokenizer.encode("</é"))))
    table = json.loads(re.search(r"const tokens = (\{.*?\});\n", page)[1])
    assert table == {"256": ['"</"', 2], "195": ['"\\\\xc3"', 1], "169": ['"\\\\xa9"', 1]}


def test_tokens_with_loss_are_marked(tokenizer):
    ids = np.array(tokenizer.encode("<|user|>ab<|endoftext|>"))
    plain = page_of(tokenizer, Shown("document 0", ids))
    masked = page_of(tokenizer, Shown("record 0", ids, np.array([False, False, True, True])))
    assert [kind for kind, _, _ in TOKEN.findall(masked.split("<section")[1])] == ["s n", "n", "c2", "s"]
    assert "<li>2 tokens carry loss</li>" in masked and "carry loss" not in plain
    assert "no loss</b>" in masked and "no loss</b>" not in plain


def test_limit(tokenizer):
    ids = np.array(tokenizer.encode("abcdef"))
    page = page_of(tokenizer, Shown("document 0", ids), limit=4)
    assert len(TOKEN.findall(page.split("<section")[1])) == 4 and "… 2 more tokens" in page
