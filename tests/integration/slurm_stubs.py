"""A cluster of shell scripts: ``sbatch``, ``srun`` and ``scontrol`` for a machine that has no SLURM."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

# Runs a script as a job, or an array of them side by side, and each again for as long as it is requeued. The job's
# folder is $STUBS; it holds the shell's process id, and what was said and done.
SBATCH = r"""
array=('')
while [[ $1 == --* ]]; do
    [[ $1 != --array=* ]] || IFS=, read -ra array <<<"${1#*=}"
    shift
done
script=$1
shift
directive() { sed -n "s/^#SBATCH --$1=//p" "$script"; }
export SLURM_JOB_NAME SLURM_NNODES=1 SLURM_NTASKS_PER_NODE SLURM_NTASKS
SLURM_JOB_NAME=$(directive job-name)
SLURM_NTASKS_PER_NODE=${TASKS:-$(directive ntasks-per-node)}
SLURM_NTASKS=$SLURM_NTASKS_PER_NODE
job() {
    export SLURM_JOB_ID=$JOB SLURM_RESTART_COUNT=0
    local name=$JOB
    if [[ -n $1 ]]; then
        export SLURM_ARRAY_JOB_ID=$JOB SLURM_ARRAY_TASK_ID=$1 SLURM_JOB_ID=$((JOB + $1))
        name=${JOB}_$1
    fi
    shift
    while
        rm -f "$STUBS/requeue.$name"
        bash "$script" "$@" >>"$STUBS/$name.out" 2>&1 &
        echo "$!" >"$STUBS/tmp.$name" && mv "$STUBS/tmp.$name" "$STUBS/$name.pid"
        wait "$!"
        echo "$?" >>"$STUBS/$name.codes"
        [[ -e $STUBS/requeue.$name ]]
    do SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1)); done
}
for task in "${array[@]}"; do job "$task" "$@" & done
wait
"""
# Like the real one it passes SIGUSR1 on, to $REACHED of the tasks if that is set, and makes a SIGKILL of a SIGTERM.
SRUN = r"""
while [[ $1 == --* ]]; do shift; done
pids=() signals=0 highest=0
pass() {
    signals=$((signals + 1))
    for task in ${REACHED:-${!pids[@]}}; do kill "-$1" "${pids[task]}" 2>/dev/null; done
}
trap 'pass USR1' USR1
trap 'pass KILL' TERM
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" &
    pids+=("$!")
done
for pid in "${pids[@]}"; do
    while
        seen=$signals
        wait "$pid"
        code=$?
        ((signals != seen)) || kill -0 "$pid" 2>/dev/null
    do :; done
    echo "$code" >>"$STUBS/tasks"
    ((code <= highest)) || highest=$code
done
exit "$highest"
"""
SCONTROL = r"""
echo "$*" >>"$STUBS/scontrol"
[[ -z ${REFUSED:-} ]] || exit 1
touch "$STUBS/requeue.$2"
"""


class Cluster:
    """Submits scripts, and warns their shells."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.bin, self.processes = folder, folder / "bin", []
        self.bin.mkdir(parents=True)
        for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
            self.install(name, text)
        path = f"{self.bin}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "WANDB_"))}
        self.environment = {**kept, "PATH": path, "STUBS": str(folder), "JOB": str(os.getpid() % 10000), **environment}

    def install(self, name, text):
        """Put a command on the path."""
        file = self.bin / name
        file.write_text(f"#!/bin/bash\n{text}")
        file.chmod(0o755)

    def submit(self, *arguments, **environment):
        """Start jobs; the process returned is there until all of them have ended for good."""
        command = [str(self.bin / "sbatch"), *map(str, arguments)]
        process = subprocess.Popen(
            command, env={**self.environment, **environment}, cwd=self.folder, start_new_session=True
        )
        self.processes.append(process)
        return process

    def close(self):
        """End what a failed test has left running."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def name(self, task=None):
        return self.environment["JOB"] + ("" if task is None else f"_{task}")

    def warn(self, number, task=None):
        """Send the shell of a job a signal, as SLURM does."""
        file = self.folder / f"{self.name(task)}.pid"
        until(file.exists)
        os.kill(int(file.read_text()), number)

    def codes(self, task=None):
        """Exit codes of a job's shells, one per start."""
        return [int(code) for code in (self.folder / f"{self.name(task)}.codes").read_text().split()]

    def requeued(self):
        """What scontrol was told."""
        file = self.folder / "scontrol"
        return file.read_text().splitlines() if file.exists() else []

    def output(self, task=None):
        return (self.folder / f"{self.name(task)}.out").read_text()


def until(condition, process=None, seconds=240):
    """Wait for something that happens while a process runs."""
    start = time.monotonic()
    while not condition():
        assert process is None or process.poll() is None, "the process ended before"
        assert time.monotonic() - start < seconds, "waited too long"
        time.sleep(0.005)
