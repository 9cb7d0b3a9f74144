"""Programs that look for faults over long runs: fuzzing, misuse, damaged files, load.

They are run by hand; ``make test`` runs only short tests of them.
"""

from train_model.cli import UserError


def check_asserts() -> None:
    """Raise ``UserError`` under ``python -O``, which removes the assertions that find faults."""
    if not __debug__:
        raise UserError("the checks are assertions; run without -O and PYTHONOPTIMIZE")
