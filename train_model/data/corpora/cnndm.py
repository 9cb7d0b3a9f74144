"""CNN / Daily Mail summaries, from text that you provide.

The articles and highlights may not be redistributed, so nothing is fetched. Put the tokenised text, one
article per line, into data_model/cnndm as train, valid and test, ``.source`` and ``.target``. Both sides
share the BPE merges and the dictionary.
"""

from pathlib import Path

from train_model.data.corpora.raw_text import binarise_with_bpe
from train_model.data.files import SPLITS, check_parallel, claim, require_files, versions

SOURCE = Path("data_model/cnndm")
SIDES = ("source", "target")
MERGES = 30_000


def prepare(folder: Path, source: Path = SOURCE, merges: int = MERGES) -> Path:
    """Prepare the corpus under ``folder`` and return the folder that fairseq reads.

    Raises:
        UserError: a text file is missing or not UTF-8, or the two files of a split differ in length.
    """
    names = [f"{split}.{side}" for split in SPLITS for side in SIDES]
    require_files(source, names, "put the tokenised text there, one article per line")
    claim(folder, {"texts": versions(source / name for name in names), "merges": merges})
    if not (folder / "bin").exists():  # made from texts that are checked already
        for split in SPLITS:
            check_parallel(*(source / f"{split}.{side}" for side in SIDES))
    return binarise_with_bpe(folder, source, SIDES, merges)
