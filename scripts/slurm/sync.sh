#!/bin/bash
# Upload what W&B recorded offline, on a node that has a network; what was uploaded before is left out.
#
#     scripts/slurm/sync.sh RUN...
#
# The parts of a requeued run have one id, and are put together in the order they were written.

set -eu

for folder in "${@:?usage: scripts/slurm/sync.sh RUN...}"; do
    wandb sync "$folder"/wandb/offline-run-*
done
