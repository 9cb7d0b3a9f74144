"""Reads the strings of user interfaces: compiled gettext catalogues and JSON catalogues."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

from train_model.data.corpora.en_de.documents import Files, Text, bounded, reading

_LITTLE_ENDIAN = 0x950412DE
_CONTEXT = "\x04"


def read_mo(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the messages and translations of a .mo file; a plural form is a separate pair.

    A catalogue that is not in UTF-8 yields nothing.

    Raises:
        struct.error: it is cut off.
        ValueError: its tables are outside it.
    """
    order = "<" if struct.unpack("<I", data[:4])[0] == _LITTLE_ENDIAN else ">"
    count, originals, translations = struct.unpack(f"{order}3I", data[8:20])
    if max(originals, translations) + 8 * count > len(data):
        raise ValueError(f"it has no {count} messages")
    for index in range(count):
        message, translation = (
            _string(data, order, table + 8 * index) for table in (originals, translations)
        )
        if not message:  # the header
            header = translation.lower()
            if "charset=" in header and "charset=utf-8" not in header and "ascii" not in header:
                return
            continue
        messages = message.split(_CONTEXT, 1)[-1].split("\0")
        yield from list(zip(messages, translation.split("\0"), strict=False))[:2]


def _string(data: bytes, order: str, at: int) -> str:
    length, offset = struct.unpack_from(f"{order}2I", data, at)
    return data[offset : offset + length].decode("utf-8", "replace")


def gettext(files: Files) -> Iterator[Text]:
    """Yield the pairs of all catalogues, without names of countries and cities."""
    for path, data in files.items():
        if path.endswith(".mo"):
            domain = path.rsplit("/", 1)[1].removesuffix(".mo")
            if domain.startswith("iso_") or "continents-cities" in domain:
                continue
            with reading(path):
                messages = list(read_mo(data))
            for english, german in messages:
                # context|text, with ~ before the letter that selects an entry
                if "libreoffice" in path:
                    english = re.sub(r"^[\w.]+\|", "", english, count=1)
                    english, german = (re.sub(r"~(?=\w)", "", t) for t in (english, german))
                yield Text("ui", domain, english, german)
        elif path.endswith("localization/locales.zip"):
            with (
                reading(path),
                zipfile.ZipFile(io.BytesIO(data)) as archive,
                archive.open("de/messages.mo") as file,
            ):
                messages = list(read_mo(bounded(file)))
            for english, german in messages:
                yield Text("ui", "calibre", english, german)


def json_catalogues(files: Files) -> Iterator[Text]:
    """Yield the strings of de.json and en.json in the same folder, paired by key."""
    for path, data in sorted(files.items()):
        other = path.removesuffix("/de.json") + "/en.json"
        if path.endswith("/de.json") and other in files:
            with reading(path):
                english = dict(_strings(json.loads(files[other])))
                strings = list(_strings(json.loads(data)))
            for key, german in strings:
                if key in english and key[0] != "@metadata":
                    yield Text("ui", path[-60:], english[key], german)


def _strings(value: Any, key: tuple = ()) -> Iterator[tuple[tuple, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in parts:
            yield from _strings(part, (*key, name))
