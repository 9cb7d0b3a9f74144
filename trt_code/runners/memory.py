"""How much memory a runner takes: each class is made before the runner is loaded and asked later."""

from pathlib import Path


class ResidentMemory:
    """The peak of this process's resident memory above what it was at the start (Linux).

    The kernel's high-water mark is set back at the start, so what ran earlier does not count; what
    runs beside the runner in this process does.
    """

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # another system, or a sandbox: the mark of the whole process is given then
            self._start = 0
        else:
            self._start = self._status("VmRSS")

    def peak(self) -> int:
        """Bytes; 0 where the system does not tell."""
        return max(0, self._status("VmHWM") - self._start)

    @staticmethod
    def _status(field: str) -> int:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return 0
        values = (line.split()[1] for line in lines if line.startswith(field + ":"))
        return int(next(values, "0")) * 1024


class AllocatorMemory:
    """The peak of what PyTorch's allocator holds on the current GPU, above what it held at the start."""

    def __init__(self) -> None:
        import torch

        self._held_before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Bytes."""
        import torch

        return torch.cuda.max_memory_allocated() - self._held_before


class DeviceMemory:
    """Device memory taken since the start; ONNX Runtime's arena only grows, so that is the peak."""

    def __init__(self) -> None:
        self._free = self._free_now()

    def peak(self) -> int:
        return max(0, self._free - self._free_now())

    @staticmethod
    def _free_now() -> int:
        import torch

        return torch.cuda.mem_get_info()[0]
