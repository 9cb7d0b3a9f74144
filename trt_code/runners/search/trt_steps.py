"""Beam search with the steps in TensorRT: an engine for the encoder, and one for a step.

The search and its state are PyTorch tensors on the GPU; the engines read and write them in place.
Every set of shapes has its own execution context and CUDA graph (``graphed_search``). As for
``trt_runner``, execution is tested only against a mock (tests/engine/test_trt_search.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnx_export.paths import half_path
from train_model.cli import UserError
from train_model.models.signatures import NEXT, PADDING_MASK, SRC_TOKENS, STATE
from trt_code.engine.plan import Engine, RuntimeOptions, open_halves
from trt_code.engine.profiles import Shape, best_profile
from trt_code.runners.search.graphed_search import Capture, GraphedSearch


class EngineHalves:
    """The two engines of a network, and the limits of their builds.

    Args:
        step: plan of the step; the encoder's is ``half_path(step, "encoder")``.
        device: the device of the engines' tensors.
        options: how the engines run. The search itself captures its steps, so the library cannot.

    Raises:
        UserError: TensorRT or a GPU is missing, a plan does not fit this machine or this network, or an
            option does not suit.
    """

    def __init__(
        self, step: Path, device: torch.device, options: RuntimeOptions | None = None
    ) -> None:
        options = options or RuntimeOptions()
        if options.cuda_graph == "library":
            raise UserError(
                "cuda_graph 'library' is for one-pass models; a search captures a step with all that is "
                "around the network: choose cuda_graph 'runner' or 'none'"
            )
        plans = open_halves(half_path(step, "encoder"), step)
        self._device = device
        self._encoder, self._step = (Engine(plan, options) for plan in plans)
        self.engine_memory = max(engine.device_memory for engine in (self._encoder, self._step))
        self._check(step)
        largest = [[profile.max for profile in plan.sidecar.profiles] for plan in plans]
        self.max_batch, self.max_source = (
            min(max(getattr(shape, axis) for shape in shapes) for shapes in largest)
            for axis in Shape._fields
        )
        self._ranges, self._command = plans[1].sidecar.ranges, plans[1].sidecar.command
        self._masked = plans[1].metadata().get("padding_policy") == "masked"

    def check_beam(self, beam: int) -> None:
        """Raise ``UserError`` if the step was built for fewer hypotheses per sentence."""
        if beam > (most := self._ranges["beam"].max):
            raise UserError(
                f"the engine takes a beam of up to {most}, not {beam}; build it again with "
                f"--axis beam=1:1:{beam}: {self._command}"
            )

    def close(self) -> None:
        """Free both engines."""
        for engine in (self._encoder, self._step):
            engine.close()

    def search(self, capture: Capture) -> GraphedSearch:
        """Return the search over the two engines; see :class:`GraphedSearch` for ``capture``."""
        names = self._step.inputs
        state = [name for name in names if name.startswith(STATE)]
        source = self._encoder.outputs
        logprobs = ["logprobs", *(NEXT + name for name in state)]
        # shared by both engines and all contexts, which never run at the same time
        scratch = torch.empty(max(1, self.engine_memory), dtype=torch.uint8, device=self._device)

        def encoder() -> Any:
            context = _Context(self._encoder, [SRC_TOKENS], source, scratch)
            return lambda src_tokens: context.run([src_tokens])

        def step(beam: int) -> Any:
            inputs = ["tokens", "parents", "position", *source, *state]
            context = _Context(self._step, inputs, logprobs, scratch)

            def run(*tensors: Any) -> tuple[Tensor, list[Tensor]]:
                *single, sources, states = tensors
                first, *new_state = context.run([*single, *sources, *states])
                return first, new_state

            return run

        shapes = [self._step.shape(name) for name in state]
        dtype = _torch_type(self._step, state[0]) if state else torch.float32

        def new_state(rows: int, room: int) -> list[Tensor]:
            # the first free axis is rows, the second is room
            sizes = [
                tuple(
                    size if size >= 0 else (rows, 0, room)[axis] for axis, size in enumerate(shape)
                )
                for shape in shapes
            ]
            return [torch.zeros(size, dtype=dtype, device=self._device) for size in sizes]

        return GraphedSearch(
            encoder,
            step,
            new_state,
            self._step.shape("logprobs")[-1],
            self._ranges["room"].max,
            capture,
            self.max_source if self._masked else 0,
        )

    def _check(self, path: Path) -> None:
        """Check that the engines are the halves of one network."""
        made = set(self._encoder.outputs)
        state = {name for name in self._step.inputs if name.startswith(STATE)}
        expected = {"tokens", "parents", "position", *made, *state}
        results = {"logprobs", *(NEXT + name for name in state)}
        if self._encoder.inputs != [SRC_TOKENS] or PADDING_MASK not in made:
            raise UserError(
                f"{half_path(path, 'encoder')} is not the encoder of an autoregressive network"
            )
        if set(self._step.inputs) != expected or set(self._step.outputs) != results:
            raise UserError(f"{path} is not the step of the network whose encoder is next to it")


class _Context:
    """An execution context for the shapes of its first run; nothing else may use ``scratch`` during a run."""

    def __init__(
        self, engine: Engine, inputs: Sequence[str], outputs: Sequence[str], scratch: Tensor
    ) -> None:
        self._engine, self._inputs, self._outputs = engine, inputs, outputs
        self._scratch = scratch
        self._context: Any = None

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Enqueue the engine on the current stream; the outputs are new tensors.

        Raises:
            UserError: the engine has no profile for the shapes, or TensorRT refuses them.
        """
        device = self._scratch.device
        stream = torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0
        feeds = dict(zip(self._inputs, tensors, strict=True))
        if self._context is None:
            self._context = self._make(feeds, stream)
        context = self._context
        results = [
            torch.empty(
                tuple(context.get_tensor_shape(name)),
                dtype=_torch_type(self._engine, name),
                device=device,
            )
            for name in self._outputs
        ]
        for name, tensor in (*feeds.items(), *zip(self._outputs, results, strict=True)):
            context.set_tensor_address(name, tensor.data_ptr())
        self._engine.enqueue(context, stream)
        return results

    def _make(self, feeds: dict[str, Tensor], stream: int) -> Any:
        engine = self._engine
        named = PADDING_MASK if PADDING_MASK in feeds else SRC_TOKENS
        profile = best_profile(engine.profiles, Shape(*feeds[named].shape))
        for name, tensor in feeds.items():
            if tensor.dtype != (wanted := _torch_type(engine, name)):
                raise UserError(f"{name} is {tensor.dtype}, the engine takes {wanted}")
        shapes = {name: tuple(tensor.shape) for name, tensor in feeds.items()}
        scratch = (self._scratch.data_ptr(), self._scratch.numel())
        return engine.make_context(profile, shapes, scratch, stream)


def _torch_type(engine: Engine, name: str) -> torch.dtype:
    """PyTorch's type of a tensor."""
    return torch.from_numpy(np.empty(0, engine.dtype(name))).dtype
