"""Configs: OmegaConf stays in here. Below, there are keyword arguments.

Reading a config imports no torch; ``config.build`` and ``config.execute``, which make objects of it, do.
"""

from __future__ import annotations

from collapse.config.errors import ConfigError, did_you_mean
from collapse.config.listing import annotated, listing
from collapse.config.load import LoadedConfig, cells, load, load_run

__all__ = ["ConfigError", "LoadedConfig", "annotated", "cells", "did_you_mean", "listing", "load", "load_run"]
