"""An ingest in parts: it goes on after a kill, and jobs of an array write the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dnmf
from dnmf.errors import BadImagesError, CorpusError, IngestError, OutputExistsError, ParameterError
from dnmf.io.ingest import finish_parts, ingest_part, plan_ingest

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 4), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def files_of(path):
    """Return all files of a corpus with their content."""
    return {p.relative_to(path): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def spoil(folder, numbers):
    for i in numbers:
        (folder / f"{i}.png").write_bytes(b"not an image")


@pytest.mark.parametrize("bad", [[], [0], [7, 8, 9], list(range(5, 16)), [39], [3, 17, 39]])
def test_the_three_ways_write_the_same_bytes(folder, tmp_path, client, bad):
    import dask

    spoil(folder, bad)
    options = {"block_rows": 6, "codec": "lz4", "max_rejects": 20}
    on_cluster = tmp_path / "cluster"
    dnmf.ingest(folder, on_cluster, **options)
    with dask.config.set(scheduler="threads"):
        dnmf.ingest(folder, tmp_path / "threads", **options)
        plan_ingest(folder, tmp_path / "jobs", **options)
        for number in (3, 1, 2):
            ingest_part(tmp_path / "jobs", number, 3)
        corpus = finish_parts(tmp_path / "jobs")
    rest = [i for i in range(40) if i not in bad]
    assert corpus.ids == [f"{i}.png" for i in rest]
    assert (corpus.images(slice(None)) == IMAGES[rest]).all()
    assert dnmf.verify(corpus.path).findings == []
    assert files_of(on_cluster) == files_of(tmp_path / "threads") == files_of(tmp_path / "jobs")
    assert sorted(os.listdir(tmp_path)) == ["cluster", "images", "jobs", "threads"]
    rejects = tmp_path / "jobs/rejects.jsonl"
    lines = rejects.read_text().splitlines() if bad else []
    assert [json.loads(line)["row"] for line in lines] == bad
    assert corpus.n_rejects == len(bad)


class TestArrayJobs:
    def test_a_part_that_is_missing(self, folder, tmp_path):
        plan_ingest(folder, tmp_path / "c", block_rows=6)
        ingest_part(tmp_path / "c", 1, 2)
        with pytest.raises(IngestError, match="4 of 7 blocks are not written, the first is 3"):
            finish_parts(tmp_path / "c")
        with pytest.raises(CorpusError):
            dnmf.open_corpus(tmp_path / "c")
        ingest_part(tmp_path / "c", 2, 2)
        assert len(finish_parts(tmp_path / "c")) == 40

    def test_nothing_is_planned(self, tmp_path):
        for act in (
            lambda: ingest_part(tmp_path / "c", 1, 2),
            lambda: finish_parts(tmp_path / "c"),
        ):
            with pytest.raises(IngestError, match=r"there is no plan of an ingest.*--plan"):
                act()

    @pytest.mark.parametrize("part", [(0, 2), (3, 2)])
    def test_parts_are_counted_from_one(self, folder, tmp_path, part):
        with pytest.raises(ParameterError, match="the first is 1/2"):
            ingest_part(tmp_path / "c", *part)

    def test_too_many_bad_images(self, folder, tmp_path):
        spoil(folder, range(6))
        plan_ingest(folder, tmp_path / "c", block_rows=6)
        with pytest.raises(BadImagesError, match="of 40 images at most 4 may be left out"):
            ingest_part(tmp_path / "c", 1, 1)

    def test_a_damaged_plan(self, folder, tmp_path):
        plan = plan_ingest(folder, tmp_path / "c")
        Path(plan.building, "plan/plan.json").write_text("{")
        with pytest.raises(IngestError, match="begin anew with --force"):
            ingest_part(tmp_path / "c", 1, 1)
        assert len(dnmf.ingest(folder, tmp_path / "c", force=True)) == 40

    @pytest.mark.parametrize("what", ["fit", "info"])
    def test_what_is_unfinished_is_no_corpus(self, folder, tmp_path, what):
        plan_ingest(folder, tmp_path / "c")
        with pytest.raises(CorpusError, match="not"):
            dnmf.open_corpus(plan_ingest(folder, tmp_path / "c").building)


SLOW_INGEST = """
import os, sys, time
import dnmf
def stop(done, total):
    print(done, flush=True)
    time.sleep(0.3)
dnmf.ingest(sys.argv[1], sys.argv[2], block_rows=2, codec="lz4", on_progress=stop)
"""


def killed(folder, path, after):
    """Start an ingest and kill it when some of its images are written."""
    command = [sys.executable, "-c", SLOW_INGEST, str(folder), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= after:
                process.send_signal(signal.SIGKILL)
                break


class TestGoingOn:
    def test_after_a_kill(self, folder, tmp_path):
        killed(folder, tmp_path / "c", 8)
        assert not (tmp_path / "c").exists()
        decoded = []
        corpus = dnmf.ingest(
            folder, tmp_path / "c", block_rows=2, codec="lz4",
            on_progress=lambda done, total: decoded.append(done),
        )  # fmt: skip
        assert decoded[0] > 8  # what was written was not read again
        whole = dnmf.ingest(folder, tmp_path / "d", block_rows=2, codec="lz4")
        assert files_of(corpus.path) == files_of(whole.path)
        assert sorted(os.listdir(tmp_path)) == ["c", "d", "images"]

    def test_with_another_limit(self, folder, tmp_path):
        spoil(folder, range(30, 40))
        killed(folder, tmp_path / "c", 8)
        corpus = dnmf.ingest(folder, tmp_path / "c", block_rows=2, codec="lz4", max_rejects=10)
        assert (len(corpus), corpus.n_rejects) == (30, 10)

    def test_with_other_options_it_says_so(self, folder, tmp_path):
        killed(folder, tmp_path / "c", 2)
        with pytest.raises(
            IngestError, match=r"whose size is None where .*begin anew with --force"
        ):
            dnmf.ingest(folder, tmp_path / "c", block_rows=2, codec="lz4", size=(3, 2))
        corpus = dnmf.ingest(folder, tmp_path / "c", size=(3, 2), force=True)
        assert corpus.image_shape == (3, 2)

    def test_after_a_kill_while_holes_are_closed(self, folder, tmp_path, monkeypatch):
        spoil(folder, [3])
        plan = plan_ingest(folder, tmp_path / "c", block_rows=6, codec="lz4")
        ingest_part(tmp_path / "c", 1, 1)
        writes = []

        def fail(*arguments):
            writes.append(arguments)
            if len(writes) == 4:
                raise KeyboardInterrupt
            return write(*arguments)

        from dnmf.io import finish

        write = finish.write_block
        monkeypatch.setattr(finish, "write_block", fail)
        with pytest.raises(KeyboardInterrupt):
            finish_parts(tmp_path / "c")
        monkeypatch.undo()
        assert Path(plan.building).exists()
        corpus = dnmf.ingest(folder, tmp_path / "c", block_rows=6, codec="lz4")
        rest = [i for i in range(40) if i != 3]
        assert (corpus.images(slice(None)) == IMAGES[rest]).all()

    def test_a_folder_of_somebody_where_it_would_be_built(self, folder, tmp_path):
        (tmp_path / ".c.ingest").mkdir()
        (tmp_path / ".c.ingest/notes").write_text("precious")
        with pytest.raises(OutputExistsError, match="dnmf did not write: move that"):
            dnmf.ingest(folder, tmp_path / "c")
        assert (tmp_path / ".c.ingest/notes").read_text() == "precious"


class TestLimits:
    @pytest.mark.parametrize(
        ("n_bad", "options", "is_refused"),
        [
            (4, {}, False),
            (5, {}, True),
            (5, {"max_rejects": 5}, False),
            (9, {"max_rejects": 0.25}, False),
            (1, {"strict": True}, True),
            (1, {"max_rejects": 0}, True),
            (39, {"max_rejects": 1.0}, False),
            (40, {"max_rejects": 1.0}, True),
        ],
    )
    def test_how_many_may_be_bad(self, folder, tmp_path, n_bad, options, is_refused):
        spoil(folder, range(40 - n_bad, 40))
        if is_refused:
            with pytest.raises(BadImagesError) as caught:
                dnmf.ingest(folder, tmp_path / "c", block_rows=6, **options)
            assert len(caught.value.errors) == n_bad
            assert os.listdir(tmp_path) == ["images"]
        else:
            assert len(dnmf.ingest(folder, tmp_path / "c", block_rows=6, **options)) == 40 - n_bad

    @pytest.mark.parametrize("value", [-1, 1.5, -0.1])
    def test_the_limit_is_a_number_or_a_share(self, folder, tmp_path, value):
        with pytest.raises(ParameterError, match="max_rejects is"):
            dnmf.ingest(folder, tmp_path / "c", max_rejects=value)
