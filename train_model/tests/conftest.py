"""fairseq with this project registered, and a small corpus for trainings."""

import dataclasses
import functools

import pytest

from train_model import fairseq_compat


@pytest.fixture(scope="session")
def plugin():
    """Register this project with fairseq; return ``train_model.fairseq_plugin``."""
    fairseq_compat.prepare()
    import train_model.fairseq_plugin

    return train_model.fairseq_plugin


@pytest.fixture(scope="module")
def build_dir(tmp_path_factory):
    """A build folder with a corpus of 1,200 pairs: enough for every unit in every form."""
    # imported here because only training needs these packages
    from train_model.data.corpora import CORPORA, demo

    folder = tmp_path_factory.mktemp("build")
    sizes = {"train": 1200, "valid": 16, "test": 16}
    small = functools.partial(demo.prepare, sizes=sizes, merges=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CORPORA, "demo", dataclasses.replace(CORPORA["demo"], prepare=small))
        yield folder
