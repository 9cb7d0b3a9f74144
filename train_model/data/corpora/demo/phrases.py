"""English and German ways to say the same number, date, time, price or quantity.

The words come from num2words, the formats and names of units, currencies and months from Babel's CLDR
data. Every English phrase has exactly one German translation, so exact match is a fair score.
"""

import datetime
import random
import re
from collections.abc import Callable
from typing import NamedTuple

from babel.dates import format_date, format_time
from babel.numbers import format_currency, format_decimal, format_percent, get_currency_name
from babel.units import format_unit
from num2words import num2words

CURRENCIES = ("USD", "EUR", "GBP", "CHF", "CAD", "SEK")
UNITS = (
    "length-kilometer",
    "length-meter",
    "length-centimeter",
    "length-mile",
    "mass-kilogram",
    "mass-gram",
    "mass-tonne",
    "volume-liter",
    "area-square-kilometer",
    "speed-kilometer-per-hour",
    "temperature-celsius",
    "energy-kilowatt-hour",
    "digital-megabyte",
    "duration-second",
    "duration-minute",
    "duration-hour",
    "duration-day",
    "duration-week",
    "duration-month",
    "duration-year",
)
LOCALES = ("en_US", "de_DE")
_AND = re.compile(r"\b(hundred|thousand) and\b")


class Phrase(NamedTuple):
    """A phrase in both languages; ``key`` names its content, however it is written."""

    source: str
    target: str
    key: str


def cardinal(rng: random.Random) -> Phrase:
    """'three hundred and forty-two' -> 'dreihundertzweiundvierzig'."""
    number = _number(rng, digits=6)
    return Phrase(*_cardinals(number), f"number {number}")


def ordinal(rng: random.Random) -> Phrase:
    """'the forty-second' -> 'der zweiundvierzigste'."""
    number = max(1, _number(rng, digits=4))
    return Phrase(
        "the " + _words(number, "en", "ordinal"),
        "der " + _words(number, "de", "ordinal"),
        f"ordinal {number}",
    )


def year(rng: random.Random) -> Phrase:
    """'in nineteen eighty-four' -> 'im Jahr neunzehnhundertvierundachtzig'."""
    number = rng.randint(1100, 2099)
    return Phrase(
        "in " + _words(number, "en", "year"),
        "im Jahr " + _words(number, "de", "year"),
        f"year {number}",
    )


def decimal(rng: random.Random) -> Phrase:
    """'12,345.67' -> '12.345,67'."""
    number = _number(rng, digits=5) + rng.choice(
        (0, rng.randrange(10) / 10, rng.randrange(100) / 100)
    )
    return Phrase(
        *(format_decimal(number, locale=locale) for locale in LOCALES), f"decimal {number:.2f}"
    )


def percentage(rng: random.Random) -> Phrase:
    """'45.5%' -> '45,5 %'."""
    permille = rng.randrange(1, 1000)
    english, german = (
        format_percent(permille / 1000, format, locale=locale)
        for locale, format in zip(LOCALES, ("#,##0.#%", "#,##0.# %"), strict=True)
    )
    return Phrase(english, german, f"percentage {permille}")


def date(rng: random.Random) -> Phrase:
    """'Friday, March 5, 2021' -> 'Freitag, 5. März 2021', or without the weekday, or in figures.

    CLDR's medium width is left out: its 'May 5, 2021' is the long one too, with another translation.
    """
    day = datetime.date(1900, 1, 1) + datetime.timedelta(days=rng.randrange(200 * 365))
    formats = rng.choice((("full", "full"), ("long", "long"), ("M/d/yyyy", "dd.MM.yyyy")))
    english, german = (
        format_date(day, format, locale) for locale, format in zip(LOCALES, formats, strict=True)
    )
    return Phrase(english, german, f"date {day.isoformat()}")


def spoken_day(rng: random.Random) -> Phrase:
    """'on the fifth of March' -> 'am fünften März'."""
    day = datetime.date(2000, 1, 1) + datetime.timedelta(days=rng.randrange(366))
    english, german = (format_date(day, "MMMM", locale) for locale in LOCALES)
    return Phrase(
        f"on the {_words(day.day, 'en', 'ordinal')} of {english}",
        f"am {_words(day.day, 'de', 'ordinal')}n {german}",
        f"day {day.month} {day.day}",
    )


def clock(rng: random.Random) -> Phrase:
    """'3:45 PM' -> '15:45 Uhr'."""
    time = datetime.time(rng.randrange(24), rng.randrange(60))
    english, german = (_plain(format_time(time, "short", locale=locale)) for locale in LOCALES)
    return Phrase(english, f"{german} Uhr", f"clock {time:%H:%M}")


def spoken_time(rng: random.Random) -> Phrase:
    """'half past three' -> 'halb vier', 'ten minutes to four' -> 'zehn Minuten vor vier'."""
    hour, minute = rng.randrange(1, 13), rng.randrange(60)
    next_hour = hour % 12 + 1
    if minute == 0:
        english = f"{_words(hour, 'en')} o'clock"
        german = f"{'ein' if hour == 1 else _words(hour, 'de')} Uhr"
    elif minute == 30:
        english = f"half past {_words(hour, 'en')}"
        german = f"halb {_words(next_hour, 'de')}"
    else:
        past = minute < 30
        near = hour if past else next_hour
        english, german = _minutes(minute if past else 60 - minute)
        english += f" {'past' if past else 'to'} {_words(near, 'en')}"
        german += f" {'nach' if past else 'vor'} {_words(near, 'de')}"
    return Phrase(english, german, f"time {hour}:{minute}")


def price(rng: random.Random) -> Phrase:
    """'$1,234.50' -> '1.234,50 $'."""
    amount, currency = _number(rng, digits=4) + rng.randrange(100) / 100, rng.choice(CURRENCIES)
    english, german = (
        _plain(format_currency(amount, currency, locale=locale)) for locale in LOCALES
    )
    return Phrase(english, german, f"price {amount:.2f} {currency}")


def bare_price(rng: random.Random) -> Phrase:
    """'$1,234' -> '1.234 $'."""
    amount, currency = 1 + rng.randrange(10 ** rng.randint(1, 4)), rng.choice(CURRENCIES)
    english, german = (
        _plain(format_currency(amount, currency, pattern, locale, currency_digits=False))
        for locale, pattern in zip(LOCALES, ("¤#,##0", "#,##0 ¤"), strict=True)
    )
    return Phrase(english, german, f"price {amount:.2f} {currency}")


def spoken_price(rng: random.Random) -> Phrase:
    """'twelve Swiss francs' -> 'zwölf Schweizer Franken'."""
    amount, currency = max(2, _number(rng, digits=5)), rng.choice(CURRENCIES)
    names = (get_currency_name(currency, amount, locale) for locale in LOCALES)
    english, german = (
        f"{words} {name}" for words, name in zip(_cardinals(amount), names, strict=True)
    )
    return Phrase(english, german, f"price {amount:.2f} {currency}")


def quantity(rng: random.Random) -> Phrase:
    """'1,250 kilometers' -> '1.250 Kilometer'."""
    number, unit = max(2, _number(rng, digits=4)) + rng.choice((0, 0.5)), rng.choice(UNITS)
    english, german = (_plain(format_unit(number, unit, locale=locale)) for locale in LOCALES)
    return Phrase(english, german, f"quantity {number} {unit}")


def spoken_quantity(rng: random.Random) -> Phrase:
    """'forty-two kilograms' -> 'zweiundvierzig Kilogramm'."""
    number, unit = max(2, _number(rng, digits=4)), rng.choice(UNITS)
    english, german = (
        _plain(format_unit(number, unit, locale=locale)).replace(
            format_decimal(number, locale=locale), words
        )
        for locale, words in zip(LOCALES, _cardinals(number), strict=True)
    )
    return Phrase(english, german, f"quantity {number} {unit}")


Kind = Callable[[random.Random], Phrase]


def loosely(kind: Kind) -> Kind:
    """Return the kind as people also type it: no hyphens in numerals, and half of the time no "and".

    A form has the key of the usual one, so that both are in one split.
    """

    def loose(rng: random.Random) -> Phrase:
        phrase = kind(rng)
        source = phrase.source.replace("-", " ")
        if rng.random() < 0.5:
            source = _AND.sub(r"\1", source)
        return phrase._replace(source=source)

    return loose


# How often each kind is drawn. Kinds with few members run dry and leave their share to the others.
KINDS: dict[Kind, int] = {
    cardinal: 24,
    ordinal: 6,
    year: 3,
    decimal: 8,
    percentage: 3,
    date: 16,
    spoken_day: 2,
    clock: 4,
    spoken_time: 4,
    price: 8,
    bare_price: 6,
    spoken_price: 8,
    quantity: 6,
    spoken_quantity: 8,
    **{
        loosely(kind): 3
        for kind in (cardinal, ordinal, year, spoken_time, spoken_price, spoken_quantity)
    },
}


def _number(rng: random.Random, digits: int) -> int:
    """A number of at most ``digits`` digits; longer ones are likelier, as there are more of them."""
    length = rng.choices(range(1, digits + 1), weights=range(1, digits + 1))[0]
    return rng.randrange(10**length)


def _words(number: int, language: str, form: str = "cardinal") -> str:
    return num2words(number, lang=language, to=form).replace(",", "")


def _cardinals(number: int) -> tuple[str, str]:
    return _words(number, "en"), _words(number, "de")


def _minutes(count: int) -> tuple[str, str]:
    if count == 15:
        return "quarter", "Viertel"
    if count == 1:
        return "one minute", "eine Minute"
    english, german = _cardinals(count)
    return f"{english} minutes", f"{german} Minuten"


def _plain(text: str) -> str:
    """CLDR's no-break spaces (U+00A0, U+202F) as ordinary ones."""
    return text.replace("\u00a0", " ").replace("\u202f", " ")
