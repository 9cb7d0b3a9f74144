"""Bounds the work of Python's regular-expression matcher, which backtracks through all ways to match."""

# The parser of `re`: private, but the only one that reads expressions exactly as `re` does.
from re import _constants, _parser

LONGEST = 4096
"""Number of characters assumed for an open-ended repeat."""


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
