"""The reader of W&B's run files against files written here, byte by byte, whole, cut and damaged."""

import json
import math
import random
import struct
import zlib

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from collapse.config.errors import ConfigError
from collapse.config.wandb_export import export_wandb
from collapse.config.wandb_file import WandbFileError, set_items, wandb_files, wandb_history, wandb_records
from collapse.config.wandb_run import WandbRow, merged_rows, wandb_runs

START, BLOCK = b":W&B\xe1\xbe\x00", 32768


def fragment(kind, data):
    return struct.pack("<IHB", zlib.crc32(bytes([kind]) + data), len(data), kind) + data


def log(contents):
    """The bytes of a run file, and where each record's first fragment begins."""
    out, starts = bytearray(START), []
    for content in contents:
        kinds = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}
        first = True
        while True:
            room = BLOCK - len(out) % BLOCK
            if room < 7:
                out += bytes(room)
                continue
            if first:
                starts.append(len(out))
            part, content = content[: room - 7], content[room - 7 :]
            out += fragment(kinds[first, not content], part)
            first = False
            if not content:
                break
    return bytes(out), starts


def row(**values):
    record = Record()
    for name, value in values.items():
        item = record.history.item.add()
        item.nested_key.extend(name.split("__"))
        item.value_json = json.dumps(value)
    return record


def read(path):
    """The records' bytes, and where the file is cut."""
    cut = []
    return [record.SerializeToString() for record in wandb_records(path, cut.append)], cut


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "run-x.wandb"
        path.write_bytes(content)
        return path

    return write


def contents(*sizes):
    return [row(n=index, text=chr(97 + index % 26) * size).SerializeToString() for index, size in enumerate(sizes)]


def filling(room):
    """A record that leaves this much room in the first block."""
    sizes = range(BLOCK - 100, BLOCK)
    return next(c for size in sizes if len(c := contents(size)[0]) == BLOCK - len(START) - 7 - room)


SMALL = contents(0, 5, 40, 1)
LARGE = contents(3, 70_000, 0, 32_000, 500, 40_000, 2)  # over block ends, and with whole blocks in between


# whole files


@pytest.mark.parametrize("sizes", [(0,), (0, 1, 2), (32_768,), (200_000, 1, 65_536), (1,) * 3000], ids=sum)
def test_what_was_written_is_read(file, sizes):
    written = contents(*sizes)
    path = file(log(written)[0])
    assert read(path) == (written, [])
    assert wandb_history(path) == [{"n": n, "text": chr(97 + n % 26) * size} for n, size in enumerate(sizes)]


def test_rows_may_be_asked_for_by_a_name(file):
    rows = [row(a=1, **{"b/c__d": 2}), row(**{"b/c": 3}), row(c=4, d=5), row(d__e=6)]
    path = file(log([record.SerializeToString() for record in rows])[0])
    assert wandb_history(path, "b/c") == [{"a": 1, "b/c": {"d": 2}}, {"b/c": 3}]
    assert wandb_history(path, "d") == [{"c": 4, "d": 5}, {"d": {"e": 6}}]
    assert wandb_history(path, "e") == []


@pytest.mark.parametrize("room", range(16))
def test_a_block_may_end_anywhere(file, room):
    """Less than a header's room is padding; just a header's is an empty first fragment."""
    written = [filling(room), *contents(0, 50, 40_000)]
    content, starts = log(written)
    assert starts[1] == (BLOCK if room < 7 else BLOCK - room)
    assert read(file(content)) == (written, [])


def test_nested_keys_are_dicts_and_w_and_bs_numbers_are_numbers():
    record = row(**{"a/b__c__d": 1, "a/b__c__e": [2], "x": math.nan, "y": -math.inf})
    tree = set_items({"a/b": 3, "z": {"u": 1, "v": 2}}, record.history.item)
    assert (tree["a/b"], tree["y"], math.isnan(tree["x"])) == ({"c": {"d": 1, "e": [2]}}, -math.inf, True)
    record.summary.remove.add().key = "x"
    record.summary.remove.add().nested_key.extend(["z", "u"])
    record.summary.remove.add().key = "never there"
    set_items(tree, [], record.summary.remove)
    assert tree == {"a/b": {"c": {"d": 1, "e": [2]}}, "y": -math.inf, "z": {"v": 2}}


# files of killed or running processes


def check_cut(path, written, content, starts, end):
    path.write_bytes(content[:end])
    found, cut = read(path)
    complete = sum(1 for stop in [*starts[1:], len(content)] if stop <= end)
    assert found == written[:complete]
    padded = complete < len(written) and end <= starts[complete] and end >= len(START)
    assert cut == ([] if padded else [starts[complete]] if end >= len(START) else [0])


def test_every_beginning_of_a_file_is_read_as_far_as_it_goes(file):
    content, starts = log(SMALL)
    path = file(content)
    for end in range(len(content)):
        check_cut(path, SMALL, content, starts, end)


def test_a_file_cut_off_anywhere_in_its_blocks(file):
    content, starts = log(LARGE)
    path, draws = file(content), random.Random(0)
    ends = {draws.randrange(7, len(content)) for _ in range(60)}
    ends |= {base * BLOCK + near for base in range(1, len(content) // BLOCK + 1) for near in range(-8, 9)}
    for end in sorted(end for end in ends if end < len(content)):
        check_cut(path, LARGE, content, starts, end)


def test_zeros_at_the_end_are_a_file_that_was_never_filled(file):
    content, _ = log(SMALL)
    assert read(file(content + bytes(100))) == (SMALL, [len(content)])


# damage


def outcome(path):
    try:
        return read(path)
    except WandbFileError as error:
        return str(error)


def test_every_flipped_bit_of_a_small_file_is_found(file):
    """All of it lies in the last block, the one where a changed length can pass for a file that is still growing."""
    content, starts = log(SMALL)
    path, passed = file(content), {}
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            found = outcome(path)
            if isinstance(found, str):
                if place >= len(START):
                    begun = max(start for start in starts if start <= place)
                    assert found.startswith(f"{path} is damaged at byte {begun}; ")
            else:
                passed[place, bit] = found
    # Only the length of the last record can: it is reported as the place where the file ends, and nothing is made up.
    assert {place for place, _ in passed} == {starts[-1] + 4, starts[-1] + 5}
    assert all(found == (SMALL[:-1], [starts[-1]]) for found in passed.values())


def test_flipped_bits_of_a_large_file_are_found(file):
    content, _ = log(LARGE)
    path, draws = file(content), random.Random(1)
    headers = [place for base in range(BLOCK, len(content), BLOCK) for place in range(base, base + 7)]
    for place in [*headers, *(draws.randrange(7, len(content) - 60) for _ in range(200))]:
        changed = bytearray(content)
        changed[place] ^= 1 << draws.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(WandbFileError, match=r"is damaged at byte \d+; copy it anew"):
            read(path)


def test_a_block_that_is_missing_or_in_another_place_is_found(file):
    content, _ = log(LARGE)
    blocks = [content[base : base + BLOCK] for base in range(0, len(content), BLOCK)]
    assert len(blocks) == 5
    for wrong in ([0, 1, 3, 4], [0, 2, 1, 3, 4], [0, 1, 2, 4], [0, 1, 1, 2, 3, 4], [0, 3, 4]):
        path = file(b"".join(blocks[index] for index in wrong))
        found = outcome(path)
        assert isinstance(found, str), wrong
        assert "is damaged at byte" in found


def test_padding_is_zero(file):
    content, _ = log([filling(3), *SMALL])
    path = file(content[: BLOCK - 1] + b"\1" + content[BLOCK:])
    assert outcome(path) == f"{path} is damaged at byte {BLOCK - 3}; " + (
        "copy it anew from where it was written, or leave it out"
    )


@pytest.mark.parametrize("content", [b"PK\3\4 a zip file", b"\x93NUMPY\1\0", START[:6] + b"\1", b"x"], ids=repr)
def test_other_files_are_refused(file, content):
    with pytest.raises(WandbFileError, match="is no W&B run file"):
        read(file(content))


def test_fragments_that_join_to_no_record_are_damage(file):
    path = file(START + fragment(1, b"\xff\xff\xff"))
    assert "is damaged at byte 7;" in outcome(path)
    for kinds in ((3,), (4,), (2, 1), (2, 2), (2, 3, 3, 2), (5,), (0,)):
        path = file(START + b"".join(fragment(kind, SMALL[0]) for kind in kinds))
        place = 7 + (len(kinds) - 1) * (7 + len(SMALL[0]))
        assert f"is damaged at byte {place};" in outcome(path), kinds


# several starts of a run


def steps(*rows):
    return [WandbRow({"trainer/global_step": step, **dict.fromkeys(names, value)}, None) for step, names, value in rows]


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        ([(0, "a", 1), (1, "a", 1)], [(2, "a", 2)], [(0, "a", 1), (1, "a", 1), (2, "a", 2)]),
        ([(0, "a", 1), (1, "a", 1), (2, "a", 1)], [(1, "a", 2), (2, "a", 2)], [(0, "a", 1), (1, "a", 2), (2, "a", 2)]),
        # killed once more before it came as far as the first time
        ([(0, "a", 1), (1, "a", 1), (2, "a", 1)], [(1, "a", 2)], [(0, "a", 1), (1, "a", 2), (2, "a", 1)]),
        # other names of the same step stay, in the order of the starts
        ([(1, "a", 1), (1, "b", 1)], [(1, "a", 2)], [(1, "b", 1), (1, "a", 2)]),
        # what a start says twice is there twice, as without a second start
        ([(1, "a", 1), (1, "a", 2)], [], [(1, "a", 1), (1, "a", 2)]),
        ([(1, "a", 1)], [(1, "a", 2), (1, "a", 3)], [(1, "a", 2), (1, "a", 3)]),
        # what was lost is sent later, and belongs to where it happened
        ([(5, "a", 1)], [(3, "b", 2), (6, "a", 2)], [(3, "b", 2), (5, "a", 1), (6, "a", 2)]),
    ],
)
def test_a_replayed_step_is_there_once(earlier, later, expected):
    assert merged_rows(steps(*earlier), steps(*later)) == steps(*expected)


def test_rows_without_a_step_stay_behind_the_one_before():
    loose = WandbRow({"note": 1}, None)
    (one,), (two,) = steps((4, "a", 1)), steps((2, "a", 2))
    assert merged_rows([one, loose, loose], [two]) == [two, one, loose, loose]


def start(folder, run_id, seconds, *records, name="run"):
    """Write the file of one start of a run."""
    head = Record()
    head.run.run_id, head.run.display_name, head.run.project = run_id, name, "p"
    head.run.tags.extend(["a", "b"])
    head.run.start_time.seconds = seconds
    path = folder / "wandb" / f"offline-run-{random.Random(str((run_id, seconds))).random()}" / f"run-{run_id}.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(log([record.SerializeToString() for record in (head, *records)])[0])
    return path


def other(kind, **values):
    record = Record()
    for name, value in values.items():
        item = getattr(record, kind).update.add()
        item.key, item.value_json = name, json.dumps(value)
    return record


def ended(code):
    record = Record()
    record.exit.exit_code = code
    return record


def step(number, **values):
    return row(**{"trainer/global_step": number, "_step": 0, **values})


@pytest.fixture
def run(tmp_path):
    """A run folder with a run of three starts, the second killed."""
    folder = tmp_path / "RUN"
    # Written in another order than they were started in.
    start(
        folder, "x", 300, step(2, a=22.0), step(3, a=math.nan), other("config", seed=3), other("summary", a=3), ended(0)
    )
    start(
        folder,
        "x",
        100,
        step(0, a=0.5),
        step(1, a=1.5),
        other("summary", a=1, best=0),
        other("config", seed=1),
        ended(1),
    )
    start(folder, "x", 200, step(1, a=1.5), step(2, a=2.5))
    (folder / "run.json").write_text("{}")
    return folder


def test_the_starts_of_a_run_are_one_run(run):
    (found,) = wandb_runs(run / "wandb")
    assert found.about == {
        "id": "x", "project": "p", "entity": "", "name": "run", "group": "", "job_type": "", "tags": ["a", "b"]
    }  # fmt: skip
    assert [(row.values["_step"], row.values["a"]) for row in found.history[:3]] == [(0, 0.5), (1, 1.5), (2, 22.0)]
    assert math.isnan(found.history[3].values["a"])
    assert (found.config, found.summary, found.exit_code) == ({"seed": 3}, {"a": 3, "best": 0}, 0)
    assert len(found.files) == 3


def test_the_last_start_says_how_a_run_ended(run):
    start(run, "x", 400, step(3, a=3.5))
    assert wandb_runs(run / "wandb")[0].exit_code is None


def artifact(digest, *aliases):
    record = Record()
    record.artifact.name, record.artifact.type, record.artifact.digest = "pool", "pool", digest
    record.artifact.aliases.extend(aliases)
    return record


@pytest.mark.parametrize(
    ("earlier", "later", "digests"),
    [
        (("a", "gen-001", "latest"), ("a", "gen-001", "latest"), ["a"]),
        (("a", "gen-001", "latest"), ("b", "gen-001", "latest"), ["b"]),  # logged again: the later one counts
        (("a", "gen-001", "latest"), ("a", "gen-002", "latest"), ["a", "a"]),
        (("a", "latest"), ("b", "latest"), ["a", "b"]),  # versions that have no names of their own
        (("a",), ("b",), ["a", "b"]),
    ],
)
def test_an_artifact_that_a_later_start_logs_again_is_there_once(tmp_path, earlier, later, digests):
    for second, logged in enumerate((earlier, later)):
        start(tmp_path, "x", second, artifact(*logged))
    (found,) = wandb_runs(tmp_path / "wandb")
    assert [one["digest"] for one in found.artifacts] == digests


def test_a_second_name_of_a_run_is_no_second_start(run):
    path = wandb_files(run / "wandb")[0]
    (run / "wandb" / "latest-run").symlink_to(path.parent)
    assert len(wandb_files(run / "wandb")) == len(wandb_files(run / "wandb", "x")) == 3
    assert wandb_files(run / "wandb", "y") == []


# the export


def test_an_export_is_plain_json(run, tmp_path):
    out = export_wandb(run, tmp_path / "deep" / "out")
    assert {path.name for path in out.iterdir()} == {
        "history.jsonl", "summary.json", "config.json", "media.json", "artifacts.json", "run.json"
    }  # fmt: skip
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["a"] for row in rows] == [0.5, 1.5, 22, None]
    about = json.loads((out / "run.json").read_text())
    assert about["id"] == "x"
    assert [file["cut"] for file in about["files"]] == [None] * 3
    assert all((run / file["path"]).is_file() for file in about["files"])


def test_an_export_goes_into_the_run_folder_and_may_be_repeated(run):
    first = export_wandb(run)
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    assert first == run / "wandb-export"
    assert {path.name: path.read_bytes() for path in export_wandb(run).iterdir()} == before


def test_runs_of_several_ids_have_a_folder_each(run):
    start(run, "y", 50, step(0, a=9))
    out = export_wandb(run)
    assert {path.name for path in out.iterdir()} == {"x", "y"}
    assert json.loads((out / "y" / "history.jsonl").read_text())["a"] == 9


def test_a_cut_file_is_said_and_read(run):
    path = start(run, "x", 400, step(3, a=3.5), step(4, a=4.5))
    path.write_bytes(path.read_bytes()[:-1])
    said = []
    out = export_wandb(run, say=said.append)
    cut = log([record.SerializeToString() for record in wandb_records(path)])[0]
    assert said == [f"{path} ends within a record, at byte {len(cut)}: its process was killed or is still writing"]
    assert [json.loads(line)["a"] for line in (out / "history.jsonl").read_text().splitlines()] == [0.5, 1.5, 22, 3.5]


def test_of_a_damaged_file_nothing_is_exported(run):
    path = wandb_files(run / "wandb")[0]
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(WandbFileError, match="is damaged at byte 7"):
        export_wandb(run)
    assert not (run / "wandb-export").exists()


def test_what_cannot_be_exported(run, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere is no run folder: it has neither config\.yaml nor run\.json"):
        export_wandb(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; choose a folder"):
        export_wandb(run, tmp_path / "file")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"holds no W&B run files; was the run made with wandb\.enabled=false\?"):
        export_wandb(tmp_path)
