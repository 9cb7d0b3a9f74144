"""Bounds and shortens the work of Python's regular-expression matcher.

It backtracks through all ways to match, and tries to at every character of a text.
"""

import re

# The parser of `re`: private, but the only one that reads expressions exactly as `re` does.
from re import _constants, _parser

LONGEST = 4096
"""Number of characters assumed for an open-ended repeat."""
MOST_TEXTS = 64
"""The most texts of which ``literals`` joins the parts."""


def ways(expression: str) -> int:
    """Return an upper bound of the ways in which ``expression`` can match at one place of a word.

    The matcher may try all of them. Nested repeats such as ``(a+)+`` have exponentially many.

    Raises:
        re.error: ``expression`` is not a regular expression.
    """
    return _sequence(_parser.parse(expression))


def least_width(expression: str) -> int:
    """Return the fewest characters that a match of a regular expression has."""
    return _parser.parse(expression).getwidth()[0]


def _sequence(items: _parser.SubPattern) -> int:
    product = 1
    for operator, argument in items:
        product = min(product * _item(operator, argument), LONGEST**4)
    return product


def _item(operator: object, argument: object) -> int:
    match operator:
        case _constants.BRANCH:
            return sum(map(_sequence, argument[1]))
        case _constants.SUBPATTERN:
            return _sequence(argument[3])
        case _constants.ATOMIC_GROUP:
            return _sequence(argument)
        case _constants.ASSERT | _constants.ASSERT_NOT:
            return _sequence(argument[1])
        case _constants.GROUPREF_EXISTS:
            return sum(_sequence(part) for part in argument[1:] if part is not None)
        case _constants.MAX_REPEAT | _constants.MIN_REPEAT | _constants.POSSESSIVE_REPEAT:
            least, most, body = argument
            return _repeats(_sequence(body), least, min(most, LONGEST))
        case _:
            return 1


def _repeats(each: int, least: int, most: int) -> int:
    if each == 1:
        return most - least + 1
    return min(sum(each**times for times in range(least, min(most, 64) + 1)), LONGEST**4)


def literals(expression: str) -> frozenset[str]:
    """Return texts of which every match of a regular expression contains at least one.

    A search for them is much faster than one for the expression. The empty text says that nothing is known.
    """
    tree = _parser.parse(expression)
    if tree.state.flags & re.IGNORECASE:
        return frozenset({""})
    return frozenset(_texts(tree)[1])


def _texts(items: _parser.SubPattern) -> tuple[set[str] | None, set[str]]:
    """Return all texts that a sequence can match, None if they are many, and those for ``literals``."""
    needed, run, whole = {""}, {""}, True
    for operator, argument in items:
        exact, inside = _item_texts(operator, argument)
        if exact is not None and len(run) * len(exact) <= MOST_TEXTS:
            run = {before + text for before in run for text in exact}
        else:
            needed = max(needed, run, inside, key=_shortest)
            run, whole = {""}, False
    return run if whole else None, max(needed, run, key=_shortest)


def _shortest(texts: set[str]) -> int:
    return min(map(len, texts))


def _item_texts(operator: object, argument: object) -> tuple[set[str] | None, set[str]]:
    match operator:
        case _constants.LITERAL:
            return {chr(argument)}, {chr(argument)}
        case _constants.AT | _constants.ASSERT | _constants.ASSERT_NOT:  # they match no character
            return {""}, {""}
        case _constants.SUBPATTERN if not argument[1] and not argument[2]:  # no other flags
            return _texts(argument[3])
        case _constants.ATOMIC_GROUP:
            return _texts(argument)
        case _constants.BRANCH:
            exact, inside = zip(*map(_texts, argument[1]), strict=True)
            return None if None in exact else set().union(*exact), set().union(*inside)
        case _constants.MAX_REPEAT | _constants.MIN_REPEAT | _constants.POSSESSIVE_REPEAT:
            least, _, body = argument
            return None, _texts(body)[1] if least else {""}
        case _:
            return None, {""}
