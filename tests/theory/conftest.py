"""Lightning reports machine and stopping reason of every chain; the tests here run hundreds of generations."""

import logging

import pytorch_lightning  # noqa: F401  sets the level of its logger when it is imported

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
