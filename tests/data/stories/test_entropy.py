"""The entropy of a token file of built-in stories is known, that of any other is not."""

import json

from lmfast.data.stories.builtin import prepare
from lmfast.data.stories.entropy import known_entropy


def test_only_of_unchanged_built_in_stories(tmp_path):
    made = prepare(tmp_path / "stories", 20_000, 4_000, 300, report=lambda line: None)
    assert known_entropy(made.valid) == made.floor_bits_per_byte
    assert known_entropy(tmp_path / "no.npy") is None
    summary = made.valid.with_name("valid.npy.json")
    facts = json.loads(summary.read_text())
    summary.write_text(json.dumps(facts | {"bytes": facts["bytes"] + 1}))
    assert known_entropy(made.valid) is None
    summary.write_text("{")
    assert known_entropy(made.valid) is None
