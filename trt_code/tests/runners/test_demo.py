"""The committed demo model translates its task; the lower limit detects a broken model."""

from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from trt_code.evaluate import read_split, score
from trt_code.runners import create
from trt_code.text.translator import LineTranslator

STEP = 10  # one sentence in ten, from the whole split


def test_translations_are_good():
    files = find_model("demo")
    sources, references = (side[::STEP] for side in read_split(files, "test"))
    tokenizer = Tokenizer.from_files(files)
    with create("torch", files, "fp32", "cpu") as runner:
        translations = LineTranslator(runner, tokenizer).translate(sources)
    found = score(translations, references, tokenizer)
    assert found["exact_match"] >= 97
    assert found["length_accuracy"] >= 99
    assert found["bleu"] >= 98.5
