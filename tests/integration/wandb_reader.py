"""A shortcut of the tests to what the packaged reader of W&B's run files finds."""

from collapse.config.wandb_file import wandb_records


def of_kind(path, kind):
    """Return the contents of all records of one kind: run, config, metric, history, exit, ..."""
    return [getattr(record, kind) for record in wandb_records(path) if record.WhichOneof("record_type") == kind]
