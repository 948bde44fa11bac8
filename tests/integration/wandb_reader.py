"""Read a W&B run file (``run-*.wandb``) without W&B's own reader, which the SDK no longer has.

The file is a log in LevelDB's format: 7 bytes of header, then blocks of 32 768 bytes with records of protocol buffers.
"""

import json
import struct
import zlib

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum of kind and data, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path):
    """Yield the records of a run file; a file that is still being written ends where it ends."""
    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise ValueError(f"{path} is no W&B run file")
    place, content = 7, b""
    while place + HEADER.size <= len(data):
        if BLOCK - place % BLOCK < HEADER.size:  # too little room for a record: the block is padded
            place += BLOCK - place % BLOCK
            continue
        checksum, length, kind = HEADER.unpack_from(data, place)
        place += HEADER.size
        part = data[place : place + length]
        place += length
        if zlib.crc32(bytes([kind]) + part) != checksum:
            raise ValueError(f"{path} is damaged at byte {place}")
        content = part if kind in (FULL, FIRST) else content + part
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(content)


def items(parts):
    """Return the key-value items of a record as a dict; nested keys are joined with a dot."""
    return {part.key or ".".join(part.nested_key): json.loads(part.value_json) for part in parts}


def of_kind(path, kind):
    """Return the contents of all records of one kind: run, config, metric, history, exit, ..."""
    return [getattr(record, kind) for record in records(path) if record.WhichOneof("record_type") == kind]


def history(path):
    """Return the logged rows, in order."""
    return [items(row.item) for row in of_kind(path, "history")]
