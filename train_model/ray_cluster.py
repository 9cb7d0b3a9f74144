"""Connects to Ray and describes a pool of actors; the only module that starts Ray."""

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train_model.cli import Parser, UserError, add_count, number

STAGES = Path(__file__).parents[1]
"""The folder that actors import the project from."""
MAX_WORKERS = 10_000
"""The most actors; Ray makes all of them at once, and waits for room for those that the cluster lacks."""
BLOCK_BYTES = 1 << 16
"""A task passes its results on in blocks of about this size, so that one large file feeds every actor."""


def add_arguments(parser: Parser) -> None:
    """Add the options of a run on Ray."""
    group = parser.add_argument_group("Ray")
    group.add_argument(
        "--address",
        help="address of a Ray cluster; default: RAY_ADDRESS, or a new cluster on this machine",
    )
    meaning = "actors; default: as many as the cluster has room for"
    add_count(group, "--workers", None, meaning, MAX_WORKERS)
    group.add_argument(
        "--gpus-per-worker",
        type=number(0.01, 1),
        default=1.0,
        metavar="X",
        help="1, or a share of a GPU, so that several actors use it; default: 1",
    )


@contextlib.contextmanager
def connected(address: str | None, **options: Any) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine; yields the module ``ray``.

    Args:
        address: None takes ``RAY_ADDRESS``, a cluster that ``ray start`` started here, or starts one.
        options: of ``ray.init``, for a cluster that is started here.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"{error}; this needs Ray, which an own .venv of make gets by itself; otherwise "
            "pip install 'lite-transformer-trt[ray]'"
        ) from None
    paths = [str(STAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    try:
        ray.init(
            address,
            runtime_env=environment,
            logging_level="error",
            log_to_driver=False,
            **options,
        )
    except Exception as error:  # Ray raises Exception itself, too
        if not address:
            raise UserError(
                f"cannot start Ray: {error}; after a cluster here that was killed, `ray stop` clears up"
            ) from error
        raise UserError(
            f"cannot connect to Ray at {address}: {error}; if it runs, set RAY_AUTH_MODE=token "
            "and copy ~/.ray/auth_token from its head"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.target_min_block_size = 1
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def pool(
    ray: Any, device: str, workers: int | None, cpus: int, gpus: float
) -> tuple[int, dict[str, Any]]:
    """Return the number of actors, and the options of ``map_batches`` for the pool.

    Args:
        ray: what :func:`connected` yields.
        device: "cpu" or "cuda".
        workers: None takes as many as the cluster has room for now.
        cpus: processors of each actor.
        gpus: the share of a GPU for each actor, on "cuda".

    Raises:
        UserError: the cluster has no room for one.
    """
    there = ray.cluster_resources()
    kind, each = ("GPU", gpus) if device == "cuda" else ("CPU", cpus)
    room = math.floor(there.get(kind, 0) / each + 1e-9)
    if not room:
        raise UserError(
            f"the Ray cluster has {there.get(kind, 0):g} {kind}s, and an actor needs {each:g}"
        )
    size = workers or room
    resources = {"num_gpus": gpus} if device == "cuda" else {"num_cpus": cpus}
    return size, {"compute": ray.data.ActorPoolStrategy(size=size), "batch_size": 1, **resources}


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Raise an error of Ray itself, such as the loss of the last node, as a ``UserError``."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        last = str(error).strip().splitlines()[-1:]
        raise UserError(
            f"Ray stopped: {type(error).__name__}: {''.join(last)}; what is finished is kept, and the same "
            "command continues there"
        ) from error
