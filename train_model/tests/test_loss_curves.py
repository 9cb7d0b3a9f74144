"""Loss curves and their differences, from logs."""

import json

import pytest

from train_model.cli import UserError
from train_model.loss_curves import main

ENTRY = '{{"num_updates": "{}", "loss": "{}", "gnorm": "{}", "wps": "9"}}'


def write(path, losses, first=1):
    path.write_text(
        "recipe demo\n"
        + "".join(
            f"INFO | train_inner | {ENTRY.format(first + n, loss, 2.5)}\n"
            for n, loss in enumerate(losses)
        )
    )


def test_runs_are_compared_with_the_first(tmp_path):
    for name, losses in {"a": [9, 8, 7.5], "b": [9, 8.25, 7.5], "c": [1]}.items():
        write(tmp_path / name, losses)
    out = tmp_path / "out"
    main(
        [f"one={tmp_path}/a", f"two GPUs={tmp_path}/b", "--note", "a machine", "--output", str(out)]
    )
    results = json.loads((out / "results.json").read_text())
    assert [run["largest loss difference"] for run in results["runs"]] == [0, 0.25]
    page = (out / "results.md").read_text()
    assert "- a machine" in page
    assert "| two GPUs | 0.25 | 0 |" in page
    assert "| 2 | 8 | 2.5 | 8.25 | 2.5 |" in page
    assert (out / "results.png").stat().st_size > 5_000


def test_a_file_that_is_not_a_log_is_reported(tmp_path):
    (tmp_path / "empty").write_text("nothing\n")
    write(tmp_path / "a", [9, 8])
    write(tmp_path / "late", [9, 8], first=10)
    for runs, reason in (
        ([f"one={tmp_path}/none"], "there is no log"),
        ([f"one={tmp_path}/empty"], "log_format=json"),
        ([f"{tmp_path}/a"], "is not name=log"),
        ([f"one={tmp_path}/a", f"one={tmp_path}/late"], "two logs are named 'one'"),
        ([f"one={tmp_path}/a", f"two={tmp_path}/late"], "no update is in all"),
    ):
        with pytest.raises(UserError, match=reason):
            main(runs)
