"""The READMEs' tables of networks say what the tests cover."""

import pytest

from train_model.models.architectures import ARCHITECTURES
from trt_code.tests.networks.table import PAGES, ROOT, table, with_table


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_the_table_of_the_tests(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert with_table(page) == text, "run python -m trt_code.tests.networks.table to update it"
    assert text.count(table(page)) == 1


@pytest.mark.parametrize("page", PAGES)
def test_every_architecture_has_a_row(page):
    rows = table(page).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [*ARCHITECTURES]
