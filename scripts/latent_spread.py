"""How far a VAE's generations spread in the latent space of its first: the table of experiment/shumailov2024_vae.

collapse run shumailov2024_vae data.root=DATA out=RUN
python scripts/latent_spread.py RUN       # the standard deviation of generation 0's encoder means, pool by pool
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from collapse.config import load_run
from collapse.config.build import build_data, build_model
from collapse.recursion import Chain


@torch.no_grad()
def spreads(run: Path, rows: int) -> list[float]:
    """Return the standard deviation, over rows and coordinates, of what generation 0's encoder makes of each pool.

    Args:
        run: The folder of a finished chain of VAEs that kept the weights of generation 0.
        rows: Rows of every pool, the first ones.

    Returns:
        One value for gold, then one for what each generation sampled.
    """
    config, chain = load_run(run).config, Chain.load(run)
    encoder: Any = build_model(config, build_data(config))
    encoder.load_state_dict(chain.state(0))
    pool = chain.pool()
    pools = range(len(chain.records) + 1)
    chosen = [torch.nonzero(pool.generation == index)[:rows, 0] for index in pools]
    return [float(encoder.eval().encode(pool.gather(index).x)[0].std()) for index in chosen]


def main() -> None:
    """Print a line per pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--rows", type=int, default=1000, help="images per pool")
    options = parser.parse_args()
    before = None
    for index, value in enumerate(spreads(options.run, options.rows)):
        who = f"sampled by generation {index - 1}" if index else "gold"
        print(f"{who:<24} {value:.3f}" + (f"  x {value / before:.3f}" if before and index > 1 else ""))
        before = value


if __name__ == "__main__":
    main()
