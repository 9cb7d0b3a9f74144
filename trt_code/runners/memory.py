"""Measures a runner's memory: create an object before the runner is loaded, and read it later."""

import gc
from pathlib import Path


def resident_memory() -> int:
    """The bytes of this process's resident memory; 0 if the system does not report it."""
    return _status("VmRSS")


def _status(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    values = (line.split()[1] for line in lines if line.startswith(field + ":"))
    return int(next(values, "0")) * 1024


class ResidentMemory:
    """The peak of this process's resident memory, minus its value at the start (Linux).

    The kernel's high-water mark is reset at the start, so earlier work does not count. Other work in this
    process during the run counts.
    """

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # another system, or a sandbox: use the mark of the whole process
            self._start = 0
        else:
            self._start = resident_memory()

    def peak(self) -> int:
        """The peak in bytes; 0 if the system does not report it."""
        return max(0, _status("VmHWM") - self._start)


class AllocatorMemory:
    """The peak of PyTorch's allocated memory on the current GPU, minus its value at the start."""

    def __init__(self) -> None:
        import torch

        gc.collect()  # what an earlier runner has left would be freed during this one
        self._held_before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """The peak in bytes."""
        import torch

        return torch.cuda.max_memory_allocated() - self._held_before


class DeviceMemory:
    """Device memory allocated since the start; ONNX Runtime's arena only grows, so this is the peak."""

    def __init__(self) -> None:
        self._free = self._free_now()

    def peak(self) -> int:
        return max(0, self._free - self._free_now())

    @staticmethod
    def _free_now() -> int:
        import torch

        return torch.cuda.mem_get_info()[0]
