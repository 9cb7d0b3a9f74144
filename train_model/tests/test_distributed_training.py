"""Training in several processes equals one process that accumulates their batches."""

import json
import os
import subprocess
import sys

import pytest

from train_model.data.corpora import demo
from train_model.models.checkpoint import load_checkpoint

pytestmark = [pytest.mark.fairseq, pytest.mark.slow]
# A small corpus is prepared already; everything else comes from the command line.
SCRIPT = """
from train_model.cli import run
from train_model.data.corpora import CORPORA, Corpus
from train_model.train import main

CORPORA["demo"] = Corpus(("en", "de"), lambda folder: folder / "bin")
run(main)
"""
SETTINGS = ["cpu=true", "optimizer=adam", "batch_size=4", "max_update=5", "log_interval=1"]
SETTINGS += ["num_workers=0", "save_interval_updates=5", "log_format=json"]
# fairseq's default for several processes wants GPUs
GLOO = ["distributed_backend=gloo", "ddp_backend=legacy_ddp"]


def losses(folder, launcher, settings):
    """Loss and gradient norm of every update of a run."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [*launcher, str(script), "--recipe", "demo-ar", "--build-dir", str(folder)]
    for setting in [*SETTINGS, *settings]:
        command += ["--set", setting]
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    reply = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert reply.returncode == 0, reply.stderr[-9000:]
    entries = [
        json.loads(line[line.index("{") :])
        for line in (reply.stdout + reply.stderr).splitlines()
        if "| train_inner |" in line
    ]
    return [(entry["loss"], entry["gnorm"]) for entry in entries], reply.stdout


def test_two_processes_have_the_losses_of_one_with_twice_the_batches(tmp_path):
    pytest.importorskip("fairseq_cli", reason="fairseq is not installed")
    folders = {name: tmp_path / name for name in ("one", "two")}
    for folder in folders.values():
        demo.prepare(folder / "data" / "demo", {"train": 60, "valid": 4, "test": 4}, merges=60)
    expected, _ = losses(folders["one"], [sys.executable], ["update_freq=2"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    found, output = losses(folders["two"], torchrun, GLOO)
    assert len(found) == 5
    assert len(set(found)) == 5
    assert found == expected
    assert output.count("wrote ") == 1
    weights = [
        load_checkpoint(f / "demo-ar/checkpoint.pt").model.state_dict() for f in folders.values()
    ]
    assert all(weights[0][name].allclose(weights[1][name], atol=1e-6) for name in weights[0])
