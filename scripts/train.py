"""``python scripts/train.py CONFIG key=value``: ``collapse run`` for launchers that want a script (torchrun, srun)."""

import sys

from collapse.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
