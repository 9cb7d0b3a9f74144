"""The shapes for which graphs are captured; each batch is padded to one of them."""

SMALL_BATCHES = (1, 2, 4, 8, 16)


def batch_bucket(batch: int) -> int:
    """Round a batch size up to 1, 2, 4, 8, 16 or a multiple of 16."""
    return next((size for size in SMALL_BATCHES if batch <= size), -(-batch // 16) * 16)


def full_batch(batch: int) -> int:
    """Round a batch size down to one that ``batch_bucket`` leaves as it is."""
    if batch >= SMALL_BATCHES[-1]:
        return batch // 16 * 16
    return max(size for size in SMALL_BATCHES if size <= batch)


def length_bucket(length: int, limit: int | None = None) -> int:
    """Round a length up: to a multiple of 8 up to 64, of 16 up to 128, then of 32; at most ``limit``."""
    step = 8 if length <= 64 else 16 if length <= 128 else 32
    rounded = -(-length // step) * step
    return rounded if limit is None else min(rounded, limit)
