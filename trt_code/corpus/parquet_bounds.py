"""Bounds of the memory that a Parquet file takes: a file of a kilobyte can hold tables of terabytes."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from train_model.cli import UserError

MAX_GROUP = 1 << 32
"""Bytes of a row group without compression, and of each list column of it; writers stay below 1 GiB."""
MAX_CHUNK = 1 << 28
"""Bytes of the rows of a chunk; 32 KiB per row."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_TEXT = "BYTE_ARRAY"


def text_columns(shard: pq.ParquetFile) -> list[str]:
    """Return the paths of the columns of text and bytes, also of those inside other columns."""
    return [column.path for column in shard.schema if column.physical_type == _TEXT]


def check_row_groups(shard: pq.ParquetFile, rows: int) -> None:
    """Check the sizes in the metadata before anything is read.

    Args:
        rows: the rows that are read at a time.

    Raises:
        UserError: a row group, or the rows that are read at a time, can take more than the limits.
    """
    for number in range(shard.metadata.num_row_groups):
        group = shard.metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        uncompressed = sum(column.total_uncompressed_size for column in columns)
        _check(f"row group {number}", max(uncompressed, group.total_byte_size), MAX_GROUP)
        for column, schema in zip(columns, shard.schema, strict=True):
            # text is read as the numbers of its values
            width = _WIDTHS.get(schema.physical_type, schema.length or 4)
            where = f"the column {schema.path!r} of row group {number}"
            if schema.max_repetition_level:  # one row can hold all values
                _check(where, column.num_values * width, MAX_GROUP)
            else:
                _check(where, min(group.num_rows, rows) * width, MAX_CHUNK)


def chunk_size(chunk: pa.RecordBatch, first: int) -> int:
    """Return the bytes of rows that were read with dictionaries in place of ``text_columns``.

    Args:
        first: the number of the first row, for the message.

    Raises:
        UserError: with the values in place of their numbers, they take more than ``MAX_CHUNK``.
    """
    size = sum(_size(column) for column in chunk.columns)
    _check(f"rows {first} to {first + len(chunk) - 1}", size, MAX_CHUNK)
    return size


def _size(array: pa.Array) -> int:
    """Return the bytes of an array with the values of its dictionaries."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)
        return pc.sum(lengths.take(array.indices).cast(pa.int64())).as_py() or 0
    if pa.types.is_struct(kind):
        return sum(_size(field) for field in array.flatten())
    if pa.types.is_map(kind):
        return _size(array.keys) + _size(array.items)
    if pa.types.is_nested(kind):
        return _size(array.flatten())
    return array.nbytes


def _check(where: str, size: int, most: int) -> None:
    if size > most:
        raise UserError(
            f"{where} would take {size:,} bytes, above the limit of {most:,}; "
            "write the table with less in a row group or a row"
        )
