"""Ingest: outside data, declared real, synthetic or unknown, into an append-only pool."""

from collapse.data.ingest.append import Ingestion, ingest
from collapse.data.ingest.layout import Layout
from collapse.data.ingest.pool import IngestPool
from collapse.data.ingest.source import Source, open_source

__all__ = ["IngestPool", "Ingestion", "Layout", "Source", "ingest", "open_source"]
