"""What every test may rely on."""

import logging

# Lightning tells of every Trainer it makes. Its parents' levels are set anew when Lightning is imported.
for package in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(f"{package}.utilities.rank_zero").setLevel(logging.ERROR)
