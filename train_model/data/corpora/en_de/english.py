"""English sentences without a German edition, for a teacher to translate (``train_model.distill``)."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from train_model.data.corpora.en_de import debian, packages
from train_model.data.corpora.en_de.alignment import sentences
from train_model.data.corpora.en_de.cleaning import Dropped, clean_english, key
from train_model.data.corpora.en_de.descriptions import english_paragraphs
from train_model.data.corpora.en_de.splitting import Near, Row, split_of


def untranslated(source: Path, known: Iterable[str], held_out: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of package descriptions that only the English list has.

    Leaves out known sentences, those of held-out documents, and near copies of held-out sentences.

    Args:
        source: folder of the package lists.
        known: the English sentences of the training pairs.
        held_out: the English sentences of valid and test.

    Raises:
        UserError: a package list is missing.
    """
    held = {key(text) for text in held_out}
    seen, near = held | {key(text) for text in known}, Near(held)
    lists = (debian.read_list(source, language) for language in debian.LANGUAGES)
    for document, paragraph in english_paragraphs(*lists):
        for sentence in sentences(paragraph):
            try:
                text = clean_english(sentence)
            except Dropped:
                continue
            bundle = packages.DESCRIPTIONS
            row = Row.of(bundle, "ddtp", f"{bundle}/{document}", text, "")
            if split_of(row) == "train" and row.english_key not in seen:
                seen.add(row.english_key)
                if row.english_key not in near:
                    yield text
