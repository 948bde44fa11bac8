"""What the journal says stays true when a write of it, or of what it announces, fails and the process lives on."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from collapse.data import folder as folder_module
from collapse.data.folder import RunFolder
from collapse.data.journal import Journal

SHORT = """
import resource, sys
from pathlib import Path
from collapse.data.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.write("a", b"1")
size = folder.journal.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))  # the disk is full within the next line
try:
    folder.write("a", b"2")
except OSError as error:
    print("refused")
"""


def check_settled(root):
    """Every file is what the journal permits."""
    for name, permitted in Journal(root).states().items():
        path = root / name
        assert (hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None) in permitted, name


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_line_that_does_not_fit_on_the_disk_is_an_error(tmp_path):
    done = subprocess.run([sys.executable, "-c", SHORT, tmp_path], capture_output=True, text=True, timeout=100)
    assert done.stdout == "refused\n", done.stderr
    assert (tmp_path / "a").read_bytes() == b"1"
    check_settled(tmp_path)
    RunFolder(tmp_path).write("a", b"3")
    check_settled(tmp_path)


@pytest.mark.parametrize(("owner", "name"), [(Journal, "_append"), (folder_module, "commit")])
def test_a_failure_is_settled_before_the_next_entry(tmp_path, monkeypatch, owner, name):
    folder = RunFolder(tmp_path)
    folder.write("a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(OSError, match="No space"):
            folder.write("a", b"2")
    folder.write("b", b"3")  # an observer that passes over the error, or a second fit with the same store
    assert (tmp_path / "a").read_bytes() == b"1"
    check_settled(tmp_path)


def test_a_folder_that_was_put_aside_goes_on_from_what_another_process_wrote(tmp_path):
    one, other = RunFolder(tmp_path), RunFolder(tmp_path)
    for turn, folder in enumerate((one, other, one)):
        folder.hold()
        folder.write("a", bytes([turn]))
        folder.lock.release()
    check_settled(tmp_path)


def test_names_are_forced_to_the_disk(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = RunFolder(tmp_path)
    folder.write("deep/er/a", b"1")
    assert {tmp_path, tmp_path / "deep", tmp_path / "deep" / "er"} <= set(synced)
    synced.clear()
    folder.remove("deep/er/a")
    assert tmp_path / "deep" / "er" in synced
