"""One actor per GPU of this machine gives the translations of one process."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("ray", reason="Ray is not installed")
from train_model import ray_cluster
from trt_code.corpus import on_ray, storage
from trt_code.text.api import Translator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.ray,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]
ROOT = Path(__file__).parents[3]
TEXT = ROOT / "data_model" / "demo" / "test.en"
SHARDS_PER_GPU = 4


def test_an_actor_per_gpu(tmp_path):
    lines = TEXT.read_text(encoding="utf-8").splitlines()
    options = {"runner": "torch", "precision": "fp32", "device": "cuda"}
    with Translator("demo", **options) as translator:
        expected = translator.translate(lines)
    names = [f"{i}.txt" for i in range(SHARDS_PER_GPU * torch.cuda.device_count())]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    places = (storage.locate(str(tmp_path / name)) for name in ("in", "out"))
    job = on_ray.Job(*places, dict.fromkeys(names, "text"), "text", "demo", options)
    with ray_cluster.connected(None, include_dashboard=False) as ray:
        pool = ray_cluster.pool(ray, "cuda", None, 1, 1.0)
        ray.data.DataContext.get_current().wait_for_min_actors_s = 300
        assert pool[0] == torch.cuda.device_count()
        summary = on_ray.translate(job, names, ray, *pool)
    assert summary.rows == len(names) * len(lines)
    assert len(summary.workers) == torch.cuda.device_count()
    for name in names:
        rows = (tmp_path / "out" / name).read_text(encoding="utf-8").splitlines()
        found = [row.split("\t")[2] for row in rows]
        same = sum(one == other for one, other in zip(found, expected, strict=True))
        assert same >= 0.999 * len(lines)
