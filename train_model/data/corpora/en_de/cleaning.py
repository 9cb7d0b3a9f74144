"""Cleans raw pairs: removes markup and keyboard marks, unifies quotes, checks length and language."""

import html
import re
import unicodedata

from train_model.data.corpora.en_de.packages import words

Pair = tuple[str, str]

_TAGS = re.compile(
    r"</?(?:b|i|u|em|strong|a|p|br|li|ul|ol|span|tt|code|para|title|emphasis|link|qt|nobr|font|filename|"
    r"command|big|small|sub|sup|h[1-6]|div|table|tr|td|th|center|hr|img|html|body|interface|shortcut|"
    r"application|resource|icode|bcode|message|note|warning|item|list|numid|envar|email|placeholder|ref|bold|"
    r"italic|header|kbd|pre|strike|dl|dt|dd|tbody|blockquote|q|s|var)\b[^<>]*/?>",
    re.I,
)
_PLACEHOLDER = re.compile(
    r"%[-+ #0]*[\d.*]*(?:\$?[-+ #0]*[\d.*]*)?(?:hh|h|ll|l|z|j|t|L|I64)?[sdiufxXcpgGeEoaln@](?![A-Za-z])|"
    r"%%|%L?\d+|%[A-Za-z]|%[({<]|\$\{?\w+|\{\w*(?::[^}]*)?\}|\{\{|\}\}|<[\w ./|-]+>|\[\[|\$\$|@\w+@|#\w+#|"
    r"\x00|\[url|\bhttps?://|\bwww\.|\S+@\S+\.\w|\ufffd"
)
CHARACTERS = {
    **dict.fromkeys("\u201e\u201c\u201d\u00bb\u00ab\u201f", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u203a\u2039`\u00b4", "'"),
    **dict.fromkeys("\u00a0\u202f\u2009", " "),
    **dict.fromkeys("\u00ad\u200b\ufeff\u200e\u200f", ""),
    **dict.fromkeys("\u2010\u2011\u2212", "-"),
    "\u2026": "...",
    "\u2014": "\u2013",
    "\u2192": "->",
}
"""Characters and their single replacement. The SentencePiece model applies it to every input too."""

_TRANSLATION = str.maketrans(CHARACTERS)
_ENGLISH = words(
    """the of and to is for with this that are you your not it from or on can if as by a be which when
    file files has have used use new there between how their its may should must more than no"""
)
_GERMAN = words(
    """der die das und ist nicht ein eine einen einer eines zu mit für von den dem des auf werden wird
    sie im oder als kann wenn es sich aus bei nach zum zur durch über wurde sind diese dieser dieses
    alle keine kein auch nur ob wie ihre ihr ihrer datei dateien können haben hat"""
)
LEAST_WORDS, MOST_WORDS = 2, 60
_WORD = re.compile(r"[^\W\d_]+")
_LIST_MARKS = (
    re.compile(r"^(?:[-*•·+]|\(?\d+[.)]|\d+(?:\.\d+)+\.?|[a-z]\))\s+"),
    re.compile(r"^[*•·]+"),
)
_SPACE_BEFORE = re.compile(r"\s+([,.;:!?)])(?=\s|$)")
_CODE = re.compile(r"[{}<>|\\\[\]=^~]|::|;;|\(\)|--[a-z].*--[a-z]|[\u0370-\u1fff\u3000-\uffff]")
_CREDITS = re.compile(r"\w \(?at\)? \w+(?: (?:dot )?)(?:com|org|net|de|edu)\b")
_UMLAUT = re.compile(r"[äöüß]")


class Dropped(Exception):
    """Raised for a pair that is not used; the message is the reason in one word."""


def normalise(text: str) -> str:
    """Return the text with composed characters, one kind of quotes and dashes, and single spaces."""
    text = unicodedata.normalize("NFC", text).translate(_TRANSLATION)
    text = re.sub(r"''(?=\w)|(?<=\w)''", '"', text)
    return re.sub(r"\s+", " ", text).strip()


def key(text: str) -> str:
    """Return the key for finding repetitions and leaks: the words, every number as 0."""
    return re.sub(r"[\W_]+", " ", re.sub(r"\d+", "0", text.lower())).strip()


def clean(english: str, german: str, interface: bool) -> Pair:
    """Return the pair without markup.

    Args:
        interface: whether the text is from a user interface and may have markup and keyboard marks.

    Raises:
        Dropped: the pair is damaged, not a translation, or not made of sentences.
    """
    if interface:
        english, german = _strip_markup(english, german)
    if _PLACEHOLDER.search(english) or _PLACEHOLDER.search(german):
        raise Dropped("placeholder")
    english, german = _tidy(normalise(english)), _tidy(normalise(german))
    if not english or not german:
        raise Dropped("empty")
    _check_sizes(english, german)
    _check_characters(english)
    _check_characters(german)
    _check_languages(english, german)
    _check_numbers(english, german)
    return english, german


def clean_english(text: str) -> str:
    """Return an English sentence that has no German edition, tidied as :func:`clean` does.

    Raises:
        Dropped: it is damaged, or no English sentence.
    """
    if _PLACEHOLDER.search(text):
        raise Dropped("placeholder")
    text = _tidy(normalise(text))
    if not LEAST_WORDS <= len(text.split()) <= MOST_WORDS:
        raise Dropped("length")
    _check_characters(text)
    words = [word.lower() for word in _WORD.findall(text)]
    english, german = (sum(word in known for word in words) for known in (_ENGLISH, _GERMAN))
    if german > english or (len(words) >= 12 and not english):
        raise Dropped("language")
    if _CREDITS.search(text):
        raise Dropped("credits")
    return text


def _strip_markup(english: str, german: str) -> Pair:
    if re.search(r"&(?:\w+|#\d+);", english + german):
        english, german = html.unescape(english), html.unescape(german)
    return _strip_keyboard_marks(_TAGS.sub(" ", english), _TAGS.sub(" ", german))


def _strip_keyboard_marks(english: str, german: str) -> Pair:
    """Drop "&" and "_" before the letter that selects a menu entry, where both sides look like one."""
    if "&" in english + german:
        english, german = (re.sub(r"&(?=\w)", "", text) for text in (english, german))
        english, german = english.replace("&&", "&"), german.replace("&&", "&")
    marked = [text.count("_") for text in (english, german)]
    if max(marked) == 1 and len(english.split()) <= 10:
        starts = re.search(r"(^|[\s(\w])_\w", english) or re.search(r"(^|[\s(\w])_\w", german)
        names = set(re.findall(r"\w*_\w*", english)) & set(re.findall(r"\w*_\w*", german))
        if starts and not names:
            english, german = english.replace("_", ""), german.replace("_", "")
    return english, german


def _tidy(text: str) -> str:
    for mark in _LIST_MARKS:
        text = mark.sub("", text)
    return _SPACE_BEFORE.sub(r"\1", text).strip()


def _check_sizes(english: str, german: str) -> None:
    words = len(english.split()), len(german.split())
    if not (min(words) >= LEAST_WORDS and max(words) <= MOST_WORDS):
        raise Dropped("length")
    characters = (len(german) + 6) / (len(english) + 6)
    if not (0.45 <= characters <= 2.3 and 0.4 <= (words[1] + 2) / (words[0] + 2) <= 2.2):
        raise Dropped("ratio")


def _check_characters(text: str) -> None:
    words = text.split()
    if sum(c.isalpha() or c == " " for c in text) < 0.75 * len(text):
        raise Dropped("symbols")
    plain = sum(1 for word in words if _WORD.fullmatch(word.strip(".,;:!?()\"'-")))
    if plain < 0.6 * len(words):
        raise Dropped("symbols")
    if max(map(len, words)) > 40 or _CODE.search(text):
        raise Dropped("code")


def _check_languages(english: str, german: str) -> None:
    left, right = ([word.lower() for word in _WORD.findall(text)] for text in (english, german))
    if not left or not right:
        raise Dropped("symbols")
    known, long = set(left), [word for word in right if len(word) > 1]
    same = sum(word in known for word in long) / max(1, len(long))
    if left == right or (same > 0.6 and len(right) >= 3) or same > 0.85:
        raise Dropped("untranslated")
    english_left, english_right = (sum(w in _ENGLISH for w in words) for words in (left, right))
    german_left, german_right = (sum(w in _GERMAN for w in words) for words in (left, right))
    if english_right > german_right or german_left > english_left:
        raise Dropped("language")
    if (len(right) >= 10 and not german_right) or (len(left) >= 12 and not english_left):
        raise Dropped("language")
    umlauts = _UMLAUT.search(english.lower()) and not _UMLAUT.search(german.lower())
    if umlauts and german_left >= english_left:
        raise Dropped("language")
    if _CREDITS.search(english):
        raise Dropped("credits")


def _check_numbers(english: str, german: str) -> None:
    left, right = re.findall(r"\d+", english), re.findall(r"\d+", german)
    if abs(len(left) - len(right)) > 1 or (left and right and not set(left) & set(right)):
        raise Dropped("numbers")
