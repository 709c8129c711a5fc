import itertools
import math
from collections import Counter

import numpy as np
import pytest

from lmfast.data.stories.grammar import (
    RESOLUTION,
    Grammar,
    draws,
    parse_rules,
    quantize,
    show,
    with_article,
    zipf_weights,
)
from tests.data.stories.ambiguity import find_ambiguity


def _plain(text):
    return [{"word": word.replace("_", " ")} for word in text.split()]


WORDS = {
    "color": _plain("red orange blue"),
    "child": [
        {"word": "Ada", "he": "she", "his": "her", "likes": "music"},
        {"word": "Bo", "he": "he", "his": "his", "likes": "sport"},
    ],
}
RULES = """
story:
-3 {child:hero} had {a color} hat.|{Hero.he} {hero>likes}. {end}
- {A color} hat belonged to {child:hero},
  and {hero.he} {hero>likes}. {end}
music:
- sang
- hummed in {color}
sport:
- ran
end:
- The end.
- {Color} was the end of {hero.his} hat.
"""


def _grammar(rules=RULES, words=WORDS):
    return Grammar(words, parse_rules(rules))


def test_articles_follow_the_sound():
    assert [with_article(w) for w in ("red", "orange", "unicorn", "hour", "umbrella", "ukulele", "honest")] == [
        "a red", "an orange", "a unicorn", "an hour", "an umbrella", "a ukulele", "an honest",
    ]  # fmt: skip


def test_show_gives_forms_capitals_and_articles():
    entry = {"word": "orange", "his": "her"}
    assert [show(entry, form) for form in ("word", "Word", "a word", "A word", "His")] == [
        "orange", "Orange", "an orange", "An orange", "Her",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 7, 180, RESOLUTION])
def test_quantized_weights_fill_the_table_and_keep_the_order(count):
    counts = quantize(zipf_weights(count))
    assert sum(counts) == RESOLUTION
    assert min(counts) >= 1
    assert counts == sorted(counts, reverse=True)


def test_quantize_is_exact_where_the_weights_are():
    assert quantize([3, 1]) == [RESOLUTION * 3 // 4, RESOLUTION // 4]
    with pytest.raises(ValueError, match="positive"):
        quantize([1, 0])


def _plain_draws(seed):
    """SplitMix64 one number at a time: the oracle for the blocks in numpy."""

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    state = mix((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = mix(state)
        yield from (word >> shift & 4095 for shift in (0, 12, 24, 36, 48))


def test_draws_are_fixed_by_the_seed_and_uniform():
    first = draws(1)
    sample = np.array([next(first) for _ in range(1 << 18)])
    assert sample[:100_000].tolist() == list(itertools.islice(_plain_draws(1), 100_000))
    chi_square = ((np.bincount(sample, minlength=RESOLUTION) - 64.0) ** 2 / 64).sum()
    assert abs(chi_square - RESOLUTION) < 5 * math.sqrt(2 * RESOLUTION)
    other = draws(2)
    same = np.mean(sample == np.array([next(other) for _ in range(1 << 18)]))
    assert same < 3 / RESOLUTION


def test_expansions_are_sentences_whose_parse_gives_the_choices_and_bits_back():
    grammar = _grammar()
    draw = draws(5).__next__
    seen = {}
    for _ in range(20_000):
        story = grammar.expand("story", draw)
        assert grammar.parse("story", story.text) == story
        seen[story.text] = story.bits
    assert "Ada had an orange hat.\nShe sang. The end." in seen
    assert "A red hat belonged to Bo, and he ran. Blue was the end of his hat." in seen
    # 2 openings × 3 colors × (Ada: sang or hummed in 3 colors; Bo: ran) × 4 ends: every text, and probability 1.
    assert len(seen) == 2 * 3 * 5 * 4
    assert sum(2.0**-bits for bits in seen.values()) == pytest.approx(1, abs=1e-12)


def test_frequencies_are_the_weights():
    grammar = _grammar()
    draw = draws(6).__next__
    rounds = 20_000
    counts = Counter(choice for _ in range(rounds) for choice in grammar.expand("story", draw).choices)
    for rule in ("story", "child"):
        for index, bits in enumerate(grammar.bits[rule]):
            p = 2.0**-bits
            assert abs(counts[rule, index] - rounds * p) < 4 * math.sqrt(rounds * p * (1 - p))


def test_a_foreign_text_is_rejected_with_its_position():
    grammar = _grammar()
    with pytest.raises(ValueError, match="from character 8: 'a green hat"):
        grammar.parse("story", "Ada had a green hat.\nShe sang. The end.")
    with pytest.raises(ValueError, match="from character 17"):  # a line break is missing there
        grammar.parse("story", "Ada had an orange hat. She sang. The end.")
    with pytest.raises(ValueError, match="from character 37: ' And more"):
        grammar.parse("story", "Ada had a red hat.\nShe sang. The end. And more.")
    with pytest.raises(ValueError, match="not a text of this grammar"):  # Bo is no "she"
        grammar.parse("story", "Bo had a red hat.\nShe ran. The end.")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("story:\n- {nothing}", "names no word list"),
        ("story:\n- {color.plural}", "'red' has no plural"),
        ("story:\n- {color}s", "touches a letter"),
        ("story:\n- {color}{color}", "nothing between"),
        ("story:\n- {child:color}", "variable and as a rule"),
        ("story:\n- {child:hero} {hero>sings}", "has no sings"),
        ("color:\n- x", "word list and as a rule"),
        ("story:\n- x\nstory:\n- y", "defined twice"),
        ("story:\n- {?}", "is not a reference"),
    ],
)
def test_a_faulty_rule_is_rejected(rules, message):
    with pytest.raises(ValueError, match=message):
        _grammar(rules)


def test_the_proof_of_unambiguity_finds_ambiguities():
    grammar = _grammar()
    assert all(find_ambiguity(grammar, rule) is None for rule in [*grammar.rules, *grammar.words])
    # Two ways to one text, one hidden in a slot; then a text that is a prefix of another; then a word that is.
    hidden = _grammar("story:\n- a {color} cat\n- a red {pet}\npet:\n- cat\n- dog")
    assert find_ambiguity(hidden, "story") == "a red cat"
    with pytest.raises(ValueError, match="2 parses"):
        hidden.parse("story", "a red cat")
    assert find_ambiguity(_grammar("story:\n- one\n- one, two"), "story") == "one"
    assert find_ambiguity(_grammar("story:\n- one\n- ones"), "story") is None
    assert find_ambiguity(_grammar("story:\n- {pet}.", {"pet": _plain("tea tea_pot")}), "pet") == "tea"
