"""Parquet tables: the numeric columns of a row are its coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from collapse.data.ingest.layout import BLOCK_BYTES, Block, Findings, Layout, stored

__all__ = ["read_tables"]


def read_tables(path: Path, files: list[Path], layout: Layout, findings: Findings) -> Iterator[Block]:
    """Read numeric columns as (n, d), float32 where that holds their values and float64 otherwise, in file order.

    Args:
        path: The file.
        files: That file alone.
        layout: ``label``, the column of integers or names that is not a coordinate.
        findings: Told the names of the columns, and of those left out.

    Raises:
        ImportError: If pyarrow is not installed.
        ValueError: If the file is damaged, has no numeric column, or a value is missing.
    """
    arrow, parquet = _pyarrow(path)
    try:
        with parquet.ParquetFile(path) as table:
            schema = table.schema_arrow
            columns = _columns(arrow, schema, layout.label, path, findings)
            kind = np.result_type(np.float32, *(schema.field(name).type.to_pandas_dtype() for name in columns))
            chosen = columns if layout.label is None else [*columns, layout.label]
            size, first = max(1, BLOCK_BYTES // (8 * len(chosen))), 0
            for batch in table.iter_batches(batch_size=size, columns=chosen):
                x = np.stack([_numbers(batch, name, path).astype(kind) for name in columns], 1)
                y = None if layout.label is None else _labels(batch, layout.label, path)
                yield Block(stored(x, str(path), first), y)
                first += len(x)
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{path} is no whole Parquet file ({error}); fetch it again") from None


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"reading {path} needs pyarrow; pip install 'collapse[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _columns(arrow: Any, schema: Any, label: str | None, path: Path, findings: Findings) -> list[str]:
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{path} has several columns of one name; rename them")
    if label is not None and label not in schema.names:
        raise ValueError(f"label={label!r} is no column of {path}, which has {', '.join(schema.names)}")
    numeric = [
        name
        for name, kind in zip(schema.names, schema.types, strict=True)
        if arrow.types.is_integer(kind) or arrow.types.is_floating(kind)
    ]
    columns = [name for name in numeric if name != label]
    if not columns:
        raise ValueError(f"{path} has no numeric column beside its labels; there is nothing to make rows of")
    others = [name for name in schema.names if name not in {*numeric, label}]
    if others:
        findings.notes.append(f"left out the columns {', '.join(others)}, which hold no numbers")
    findings.facts["columns"] = columns
    return columns


def _numbers(batch: Any, name: str, path: Path) -> np.ndarray:
    column = batch.column(name)
    if column.null_count:
        raise ValueError(f"column {name!r} of {path} has missing values; fill them in or drop their rows")
    return column.to_numpy(zero_copy_only=False)


def _labels(batch: Any, name: str, path: Path) -> np.ndarray:
    values = _numbers(batch, name, path)
    labels = values if values.dtype.kind in "iu" else np.array(values.tolist())
    if labels.dtype.kind not in "iuU":
        raise ValueError(f"column {name!r} of {path} must hold integers or names to be labels, got {batch[name].type}")
    return labels
