"""A proof that a grammar is unambiguous: in no choice is a text of one alternative a prefix of another's.

If so, a text read from the left forces every choice, and the bits of its choices are exactly −log2 of its probability.
"""

import re
from collections.abc import Callable, Iterator

from lmfast.data.stories.grammar import Draw, Grammar, Linked, Literal, Part, show

_TOKEN = re.compile(r"[A-Za-z]+|[^A-Za-z]")


def find_ambiguity(grammar: Grammar, rule: str) -> str | None:
    """A text after which one alternative of `rule` is complete and another could continue; None if there is none.

    All alternatives are followed at once, token by token (a token is a run of letters or one other character; slots
    touch no letters, so tokens never straddle one). A bound form stands for every form its variable may show, which
    can only add texts: None is a proof, a text may be a false alarm.
    """

    def heads(stack: tuple) -> Iterator[tuple[str | None, tuple]]:
        """(next token, rest) for every way to continue from a stack of pending parts or tokens."""
        if not stack:
            yield None, ()
            return
        first, rest = stack[0], stack[1:]
        if isinstance(first, str):
            yield first, rest
            return
        for sequence in sequences(first):
            yield from heads(sequence + rest)

    def sequences(part: Part) -> list[tuple]:
        if part not in expanded:
            if isinstance(part, Literal):
                found = [tuple(_TOKEN.findall(part.text))]
            elif isinstance(part, Draw) and part.rule in grammar.rules:
                found = [tuple(parts) for parts in grammar.rules[part.rule]]
            else:
                lists = {part.rule} if isinstance(part, Draw) else grammar.variables[part.variable]
                entries = [entry for name in sorted(lists) for entry in grammar.words[name]]
                if isinstance(part, Linked):
                    linked = sorted({entry[part.key] for entry in entries})
                    found = [tuple(parts) for name in linked for parts in grammar.rules[name]]
                else:
                    found = [
                        tuple(_TOKEN.findall(text)) for text in {show(e, part.form): None for e in entries}
                    ]
            expanded[part] = found
        return expanded[part]

    expanded: dict[Part, list[tuple]] = {}
    if rule in grammar.rules:
        starts = [(i, tuple(parts)) for i, parts in enumerate(grammar.rules[rule])]
        return _search([frozenset(starts)], heads)
    for form in sorted({p.form for alts in grammar.rules.values() for a in alts for p in a
                        if isinstance(p, Draw) and p.rule == rule}):  # fmt: skip
        starts = [
            (i, tuple(_TOKEN.findall(show(entry, form)))) for i, entry in enumerate(grammar.words[rule])
        ]
        if found := _search([frozenset(starts)], heads):
            return found
    return None


def _search(frontier: list[frozenset], heads: Callable) -> str | None:
    reached = {frontier[0]: ""}
    while frontier:
        state = frontier.pop()
        following: dict[str | None, set] = {}
        for alternative, stack in state:
            for token, rest in heads(stack):
                following.setdefault(token, set()).add((alternative, rest))
        alive = {alternative for after in following.values() for alternative, _ in after}
        if None in following and len(alive) > 1:
            return reached[state]
        for token, after in following.items():
            after = frozenset(after)
            if token is not None and len({a for a, _ in after}) > 1 and after not in reached:
                reached[after] = reached[state] + token
                frontier.append(after)
    return None
