"""plain_training.py compared with the compiled counting and learning; test_merging.py compares both with the definition."""

import pytest

from lmfast.tokenizer import plain_training
from lmfast.tokenizer.counting import count_pretokens
from lmfast.tokenizer.merging import learn_merges
from lmfast.tokenizer.patterns import NAMED, get_pattern
from lmfast.tokenizer.text_file import TextFile
from tests.tokenizer import sample_text

END = "<|endoftext|>"


@pytest.mark.parametrize("pattern", [*sorted(NAMED), r"\w+|\s+"])
@pytest.mark.parametrize("name", sample_text.GENERATED)
def test_whole_texts(tmp_path, name, pattern):
    path = tmp_path / "text.txt"
    path.write_bytes(sample_text.sample(name)[:60_000] + b"\xff\xe2\x82 \xf0\x9f")
    split, seen = get_pattern(pattern), []
    counts = plain_training.count_pretokens(
        [TextFile(path)] * 2, [END], split, lambda *step: seen.append(step)
    )
    compiled = count_pretokens([path, path], [END], split)
    assert counts == {compiled.pretoken(i): n for i, n in enumerate(compiled.counts.tolist())}
    assert plain_training.learn_merges(counts, 700) == learn_merges(compiled, 700)
    size = path.stat().st_size
    assert seen == [(size, 2 * size), (2 * size, 2 * size)]


def test_long_pretokens_are_left_to_compiled_code():
    assert plain_training.is_little_work({b"a" * 100: 1, b"b" * 1000: 5})
    assert not plain_training.is_little_work({b"a" * 5000: 1})
