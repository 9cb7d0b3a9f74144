"""Shapes that graphs are captured for: every batch is padded up to one of few."""

SMALL_BATCHES = (1, 2, 4, 8, 16)


def batch_bucket(batch: int) -> int:
    """1, 2, 4, 8, 16, then multiples of 16."""
    return next((size for size in SMALL_BATCHES if batch <= size), -(-batch // 16) * 16)


def length_bucket(length: int, limit: int) -> int:
    """Multiples of 8 to 64, of 16 to 128, of 32 beyond, at most ``limit``."""
    step = 8 if length <= 64 else 16 if length <= 128 else 32
    return min(-(-length // step) * step, limit)
