"""Forms that people type and the corpus ``demo`` lacks; the corpus ``demo-typed`` has them too.

These are prices without cents, numerals without their hyphen or "and", and a mark at the end. A form has the
key of the usual one, so both are in one split.
"""

import random
import re

from babel.numbers import format_currency

from train_model.data.corpora.demo import phrases
from train_model.data.corpora.demo.phrases import CURRENCIES, LOCALES, Kind, Phrase

MARKS = {".": 10, "?": 2, "!": 1}  # percent of the pairs that end with each
_AND = re.compile(r"\b(hundred|thousand) and\b")


def bare_price(rng: random.Random) -> Phrase:
    """'$1,234' -> '1.234 $'."""
    amount, currency = 1 + rng.randrange(10 ** rng.randint(1, 4)), rng.choice(CURRENCIES)
    english, german = (
        format_currency(amount, currency, pattern, locale, currency_digits=False)
        for locale, pattern in zip(LOCALES, ("¤#,##0", "#,##0 ¤"), strict=True)
    )
    return Phrase(english, german, f"price {amount:.2f} {currency}")


def loosely(kind: Kind) -> Kind:
    """Return the kind without hyphens in its numerals, and half of the time without "and"."""

    def loose(rng: random.Random) -> Phrase:
        phrase = kind(rng)
        source = phrase.source.replace("-", " ")
        if rng.random() < 0.5:
            source = _AND.sub(r"\1", source)
        return phrase._replace(source=source)

    return loose


_SPOKEN = (
    phrases.cardinal,
    phrases.ordinal,
    phrases.year,
    phrases.spoken_time,
    phrases.spoken_price,
    phrases.spoken_quantity,
)
KINDS = phrases.KINDS | {bare_price: 6} | {loosely(kind): 3 for kind in _SPOKEN}
