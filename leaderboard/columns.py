"""Columns of numbers out of a Parquet file that anyone may have made: large ones are not read."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MOST_VALUES = 1 << 24
"""Numbers of one file, 128 MiB of them: 60,502 queries under 60 budgets have 15 million."""

_ROWS = 1 << 16


def read_columns(file: pq.ParquetFile) -> dict[str, np.ndarray]:
    """All columns of a file, each a flat array; ValueError as soon as they are seen to be large.

    A column of text or of lists has no size that its length tells, and none belongs into a result.
    """
    schema = file.schema_arrow
    odd = next((field for field in schema if not _is_number(field.type)), None)
    if odd is not None:
        raise ValueError(f"column {odd.name} holds no plain numbers")
    most = MOST_VALUES // max(1, len(schema))
    batches, rows = [], file.metadata.num_rows
    # What a file says of its length need not be true, so it is counted as well. Its other sums are not
    # asked for: pyarrow 26 aborts the process on a damaged one.
    for batch in file.iter_batches(_ROWS, use_threads=False) if rows <= most else ():
        batches.append(batch)
        rows = max(rows, sum(map(len, batches)))
        if rows > most:
            break
    if rows > most:
        raise ValueError(f"more than {MOST_VALUES:,} numbers")
    table = pa.Table.from_batches(batches, schema)
    return {name: table[name].to_numpy() for name in table.column_names}


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
