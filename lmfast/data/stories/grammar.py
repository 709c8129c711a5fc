"""A weighted grammar that expands to texts and parses them again (its notation: docs/corpora.md).

Input: rules (text blocks of weighted templates), word lists (entries with forms) and a stream of 12-bit random numbers.
Output: texts with the exact -log2 probability of their choices, and the choices of a given text. Raises ValueError for
templates with an unknown rule or form, slots next to a letter, and texts that the grammar cannot produce, with the
position. The stories are in corpus.py.

Every choice takes one number from 0 to 4095, so its probability is an exact multiple of 1/4096 and a seed gives the same
story on every platform. Choices are made in text order. Among the alternatives of a choice no text may be a prefix of
another's, so that a text determines its choices (proof: tests/data/stories/ambiguity.py).
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

RESOLUTION_BITS = 12
RESOLUTION = 1 << RESOLUTION_BITS

Entry = Mapping[str, str]  # form name → text; "word" is the plain form
Choice = tuple[str, int]  # (rule, index of the alternative taken)

_REFERENCE = re.compile(r"([aA] )?(\w+)(?::(\w+))?(?:\.(\w+))?(?:>(\w+))?")
_FIRST_WORD = re.compile(r"[A-Za-z]+")
_A_DESPITE_VOWEL = re.compile(r"(uni|use|usu|euc|eur|uku|one\b|once\b)")
_AN_DESPITE_CONSONANT = re.compile(r"(hour|honest|heir|honou?r)")


class Literal(NamedTuple):
    text: str


class Draw(NamedTuple):
    """A choice from `rule`; for a word list, shows `form` of the entry and may bind the entry to `variable`."""

    rule: str
    form: str
    variable: str | None


class Bound(NamedTuple):
    """The `form` of the entry bound to `variable`; not a choice."""

    variable: str
    form: str


class Linked(NamedTuple):
    """A choice from the rule that the entry bound to `variable` names under `key`."""

    variable: str
    key: str


Part = Literal | Draw | Bound | Linked


@dataclass(frozen=True)
class Expansion:
    text: str
    bits: float  # -log2 of the product of the choices' probabilities
    choices: tuple[Choice, ...]


def with_article(text: str) -> str:
    """ "red" → "a red", "orange" → "an orange", "unicorn" → "a unicorn", "hour" → "an hour"."""
    vowel = text[0] in "aeiouAEIOU" and not _A_DESPITE_VOWEL.match(text)
    return ("an " if vowel or _AN_DESPITE_CONSONANT.match(text) else "a ") + text


def show(entry: Entry, form: str) -> str:
    """The text of a form; "a " before the name adds the article, a capital first letter capitalises the text."""
    key = form.removeprefix("a ").removeprefix("A ")
    text = entry[key[0].lower() + key[1:]]
    if form[:2] in ("a ", "A "):
        text = with_article(text)
    return text[0].upper() + text[1:] if form[0].isupper() else text


def zipf_weights(count: int) -> list[int]:
    """Weight of rank k ∝ 1 / (k + count // 4 + 1), in integers so that every platform rounds equally."""
    return [1_000_000 // (rank + count // 4 + 1) for rank in range(count)]


def quantize(weights: Sequence[int]) -> list[int]:
    """Positive integers proportional to `weights` that sum to RESOLUTION, by the largest-remainder method."""
    if not 0 < len(weights) <= RESOLUTION or min(weights) <= 0:
        raise ValueError(f"need 1 to {RESOLUTION} positive weights, got {len(weights)}")
    total = sum(weights)
    counts = [max(1, weight * RESOLUTION // total) for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(weights[i] * RESOLUTION % total), i))
    for i in by_remainder[: max(0, RESOLUTION - sum(counts))]:
        counts[i] += 1
    while sum(counts) > RESOLUTION:  # rare words were rounded up to 1 / 4096; take it from the most frequent
        counts[counts.index(max(counts))] -= 1
    return counts


def draws(seed: int) -> Iterator[int]:
    """Endless integers in [0, RESOLUTION): SplitMix64 (Steele, Lea, Flood 2014), five per 64-bit word."""
    golden = 0x9E3779B97F4A7C15
    block = 1 << 14

    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    # The seed is mixed before it becomes the start of the counter, so that nearby seeds give unrelated streams.
    start = int(mix(np.array([(seed + 1) * golden % 2**64], dtype=np.uint64))[0])
    steps = np.arange(1, block + 1, dtype=np.uint64) * np.uint64(golden)
    shifts = np.arange(5, dtype=np.uint64) * np.uint64(RESOLUTION_BITS)

    def blocks() -> Iterator[list[int]]:
        state = start
        while True:
            words = mix(np.uint64(state) + steps)
            state = (state + block * golden) % 2**64
            yield ((words[:, None] >> shifts) & np.uint64(RESOLUTION - 1)).ravel().tolist()

    return chain.from_iterable(blocks())


class Grammar:
    """Rules and word lists, checked and compiled to tables of 4096 entries.

    `words`: {name: entries, most frequent first (weights by `zipf_weights`)}. `rules`: {name: (weight, template) pairs}.
    Words, rules and variables share one namespace.
    """

    def __init__(self, words: Mapping[str, Sequence[Entry]], rules: Mapping[str, Sequence[tuple[int, str]]]):
        if both := words.keys() & rules.keys():
            raise ValueError(f"named as a word list and as a rule: {sorted(both)}")
        self.words = {name: list(entries) for name, entries in words.items()}
        self.templates = {name: list(alternatives) for name, alternatives in rules.items()}
        self.variables: dict[str, set[str]] = {}  # variable → the word lists it may be bound from
        texts = [text for alternatives in rules.values() for _, text in alternatives]
        for rule, variable in re.findall(r"{(?:[aA] )?(\w+):(\w+)", "".join(texts)):
            self.variables.setdefault(variable, set()).add(rule[0].lower() + rule[1:])
        if both := self.variables.keys() & (words.keys() | rules.keys()):
            raise ValueError(f"named as a variable and as a rule: {sorted(both)}")
        self.rules: dict[str, list[list[Part]]] = {
            name: [self._parts(name, text) for _, text in alternatives]
            for name, alternatives in rules.items()
        }
        self.counts: dict[str, list[int]] = {
            name: quantize(zipf_weights(len(e))) for name, e in words.items()
        }
        self.counts |= {name: quantize([w for w, _ in alts]) for name, alts in rules.items()}
        self.bits = {n: [RESOLUTION_BITS - math.log2(c) for c in counts] for n, counts in self.counts.items()}
        self._programs = _Programs(self)
        self._starts: dict[tuple[str, str], dict[str, list[tuple[int, str]]]] = {}

    def _parts(self, rule: str, template: str) -> list[Part]:
        pieces = re.split(r"{([^}]*)}", template)
        parts: list[Part] = []
        for i, piece in enumerate(pieces):
            if i % 2:
                parts.append(self._reference(rule, piece))
                if pieces[i - 1][-1:].isalpha() or pieces[i + 1][:1].isalpha():
                    raise ValueError(f"rule {rule}: {{{piece}}} touches a letter")
                if pieces[i + 1] == "" and i + 2 < len(pieces):
                    raise ValueError(f"rule {rule}: nothing between {{{piece}}} and {{{pieces[i + 2]}}}")
            elif piece:
                parts.append(Literal(piece.replace("|", "\n")))
        return parts

    def _reference(self, rule: str, text: str) -> Part:
        where = f"rule {rule}: {{{text}}}"
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError(f"{where} is not a reference")
        article, name, variable, form, link = match.groups()
        lower = name[0].lower() + name[1:]
        form = (form or "word") if name == lower else (form or "word").capitalize()
        form = (article or "") + form
        if lower in self.variables:
            lists = self.variables[lower]
            part: Part = Linked(lower, link) if link else Bound(lower, form)
        elif lower in self.words:
            lists, part = {lower}, Draw(lower, form, variable)
        elif lower in self.templates and form == "word" and not variable:
            return Draw(lower, form, None)
        else:
            raise ValueError(f"{where} names no word list, variable or rule")
        for entry in chain.from_iterable(self.words[name] for name in lists):
            key = link or form.removeprefix("a ").removeprefix("A ")
            if key[0].lower() + key[1:] not in entry or (link and entry[link] not in self.templates):
                raise ValueError(f"{where}: {entry['word']!r} has no {key}")
        return part

    def expand(self, start: str, draw: Callable[[], int]) -> Expansion:
        """One text of rule `start`; `draw` returns integers in [0, RESOLUTION)."""
        return self._programs.run(start, draw)

    def parse(self, start: str, text: str) -> Expansion:
        """The unique expansion of `start` to `text`. Raises ValueError if there is none (with the position) or several."""
        parses = list(_Parser(self, text).all(start))
        if len(parses) != 1:
            raise ValueError(f"the text has {len(parses)} parses: {text[:60]!r}…")
        choices = tuple(parses[0])
        return Expansion(text, sum((self.bits[rule][index] for rule, index in choices), 0.0), choices)

    def entries_at(self, rule: str, form: str, text: str, position: int) -> list[tuple[int, str]]:
        """(index, shown text) of the entries of a word list whose `form` occurs in `text` at `position`."""
        starts = self._starts.get((rule, form))
        if starts is None:
            starts = self._starts[rule, form] = {}
            for index, entry in enumerate(self.words[rule]):
                shown = show(entry, form)
                if word := _FIRST_WORD.match(shown):
                    starts.setdefault(word.group(), []).append((index, shown))
        first = _FIRST_WORD.match(text, position)
        candidates = starts.get(first.group(), ()) if first else ()
        return [(index, shown) for index, shown in candidates if text.startswith(shown, position)]


class _Programs:
    """The grammar compiled to tables for fast expansion: one list lookup per choice, no arithmetic.

    A compiled template is a list of (operation, argument, name). All strings except the forms of bound entries are
    created here, once; one Zen 4 core then produces about 15 MB of text per second.
    """

    LITERAL, WORD, BOUND, RULE, BIND, LINKED = range(6)

    def __init__(self, grammar: Grammar):
        self._grammar = grammar
        self._tables: dict[str | tuple, list] = {}

    def _spread(self, rule: str, payloads: Sequence) -> list:
        """RESOLUTION rows (payload, bits, choice), each alternative repeated in proportion to its weight."""
        counts, bits = self._grammar.counts[rule], self._grammar.bits[rule]
        rows = [(payload, bits[i], (rule, i)) for i, payload in enumerate(payloads)]
        return [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]

    def _rule_table(self, rule: str) -> list:
        if rule not in self._tables:
            self._tables[rule] = self._spread(rule, [self._compile(p) for p in self._grammar.rules[rule]])
        return self._tables[rule]

    def _word_table(self, part: Draw) -> list:
        """Payload: the shown text, or (text, entry) if a variable is bound to the entry."""
        key = (part.rule, part.form, part.variable is not None)
        if key not in self._tables:
            entries = self._grammar.words[part.rule]
            shown = [show(entry, part.form) for entry in entries]
            self._tables[key] = self._spread(part.rule, list(zip(shown, entries)) if part.variable else shown)
        return self._tables[key]

    def _compile(self, parts: list[Part]) -> list[tuple]:
        code: list[tuple] = []
        for part in parts:
            if isinstance(part, Literal):
                code.append((self.LITERAL, part.text, None))
            elif isinstance(part, Bound):
                code.append((self.BOUND, part.variable, part.form))
            elif isinstance(part, Linked):
                code.append((self.LINKED, part.variable, part.key))
            elif part.rule in self._grammar.rules:
                code.append((self.RULE, self._rule_table(part.rule), None))
            else:
                operation = self.WORD if part.variable is None else self.BIND
                code.append((operation, self._word_table(part), part.variable))
        return code

    def run(self, start: str, draw: Callable[[], int]) -> Expansion:
        literal, word, bound_form, bind, linked = self.LITERAL, self.WORD, self.BOUND, self.BIND, self.LINKED
        out: list[str] = []
        choices: list[Choice] = []
        bound: dict[str, Entry] = {}
        code, bits, choice = self._rule_table(start)[draw()]
        choices.append(choice)
        stack = [iter(code)]
        while stack:
            for operation, what, name in stack[-1]:
                if operation == literal:
                    out.append(what)
                    continue
                if operation == bound_form:
                    out.append(show(bound[what], name))
                    continue
                table = self._rule_table(bound[what][name]) if operation == linked else what
                payload, cost, choice = table[draw()]
                bits += cost
                choices.append(choice)
                if operation == word:
                    out.append(payload)
                elif operation == bind:
                    out.append(payload[0])
                    bound[name] = payload[1]
                else:
                    stack.append(iter(payload))
                    break
            else:
                stack.pop()
        return Expansion("".join(out), bits, tuple(choices))


class _Parser:
    """Recursive descent through all alternatives; `furthest` is the first character that none of them matched."""

    def __init__(self, grammar: Grammar, text: str):
        self._grammar = grammar
        self._text = text
        self._furthest = 0

    def all(self, start: str) -> Iterator[list[Choice]]:
        found = False
        for position, _, choices in self._rule(start, 0, {}):
            self._furthest = max(self._furthest, position)
            if position == len(self._text):
                found = True
                flat: list[Choice] = []
                while choices is not None:
                    choices, choice = choices
                    flat.append(choice)
                yield flat[::-1]
        if not found:
            at = self._furthest
            raise ValueError(f"not a text of this grammar from character {at}: {self._text[at : at + 40]!r}")

    def _rule(self, rule: str, position: int, bound: dict[str, Entry], choices=None) -> Iterator[tuple]:
        for index, parts in enumerate(self._grammar.rules[rule]):
            yield from self._sequence(parts, 0, position, bound, (choices, (rule, index)))

    def _sequence(self, parts: list[Part], i: int, position: int, bound: dict, choices) -> Iterator[tuple]:
        while i < len(parts):
            part = parts[i]
            if not isinstance(part, Literal | Bound):
                break
            shown = part.text if isinstance(part, Literal) else show(bound[part.variable], part.form)
            if not self._text.startswith(shown, position):
                self._furthest = max(self._furthest, position)
                return
            position += len(shown)
            i += 1
        else:
            yield position, bound, choices
            return
        if isinstance(part, Draw) and part.rule in self._grammar.words:
            for index, shown in self._grammar.entries_at(part.rule, part.form, self._text, position):
                entry = self._grammar.words[part.rule][index]
                known = bound if part.variable is None else bound | {part.variable: entry}
                end, taken = position + len(shown), (choices, (part.rule, index))
                yield from self._sequence(parts, i + 1, end, known, taken)
            self._furthest = max(self._furthest, position)
            return
        rule = bound[part.variable][part.key] if isinstance(part, Linked) else part.rule
        for end, known, taken in self._rule(rule, position, bound, choices):
            yield from self._sequence(parts, i + 1, end, known, taken)


def parse_rules(text: str) -> dict[str, list[tuple[int, str]]]:
    """Parses a block of rules as in the module's docstring into {rule: [(weight, template), …]}."""
    rules: dict[str, list[tuple[int, str]]] = {}
    for line in text.strip().splitlines():
        if match := re.fullmatch(r"(\w+):", line):
            if match.group(1) in rules:
                raise ValueError(f"rule {match.group(1)} is defined twice")
            current = rules[match.group(1)] = []
        elif match := re.fullmatch(r"-(\d*) (.+)", line):
            current.append((int(match.group(1) or 1), match.group(2).strip()))
        elif line.strip():
            weight, template = current[-1]
            current[-1] = (weight, f"{template} {line.strip()}")
    return rules
