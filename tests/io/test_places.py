"""Where image files lie: folders, patterns, archives, tables, URLs, and what is refused there."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import tarfile
import zipfile

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dnmf
from dnmf.errors import BadImagesError, IngestError
from dnmf.io.sources.places import order

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


PNGS = [png(image) for image in IMAGES]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, content in enumerate(PNGS):
        (folder / f"f{i}.png").write_bytes(content)
    return folder


def check(corpus, ids=None, rows=range(12)):
    assert corpus.ids == [f"f{i}.png" for i in range(12)] if ids is None else ids
    assert (corpus.images(slice(None)) == IMAGES[list(rows)]).all()
    return corpus


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=5)), st.integers(1, 4))
def test_names_are_sorted_alike_in_memory_and_from_files(names, size):
    whole = sorted(names, key=order.natural)
    before, order.IN_MEMORY = order.IN_MEMORY, size
    try:
        assert list(order.sort_flat(iter(names), order.natural)) == whole
    finally:
        order.IN_MEMORY = before


class TestFolders:
    def test_subfolders_in_natural_order(self, folder, tmp_path):
        (folder / "f1.png").rename(folder / "f1")
        (folder / "f1").unlink()
        (folder / "f1").mkdir()
        (folder / "f1/x.png").write_bytes(PNGS[1])
        ids = ["f0.png", "f1/x.png", *(f"f{i}.png" for i in range(2, 12))]
        check(dnmf.ingest(folder, tmp_path / "c"), ids)

    def test_hidden_files_and_folders_are_left_out(self, folder, tmp_path):
        (folder / ".thumbnails").mkdir()
        (folder / ".thumbnails/f0.png").write_bytes(PNGS[0])
        (folder / "._f0.png").write_bytes(b"resource fork")
        check(dnmf.ingest(folder, tmp_path / "c"))

    def test_patterns(self, folder, tmp_path):
        corpus = dnmf.ingest(f"{folder}/f1*.png", tmp_path / "c")
        check(corpus, ["f1.png", "f10.png", "f11.png"], [1, 10, 11])
        with pytest.raises(IngestError, match="does not exist"):
            dnmf.ingest(f"{folder}/g*.png", tmp_path / "d")

    def test_a_file_whose_name_looks_like_a_pattern(self, tmp_path):
        (tmp_path / "a[1].png").write_bytes(PNGS[0])
        check(dnmf.ingest(tmp_path / "a[1].png", tmp_path / "c"), ["a[1].png"], [0])

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda f, out: f.symlink_to(out), "is a link out of"),
            (lambda f, out: f.symlink_to("nothing"), "is a link to nothing"),
            (lambda f, out: f.write_bytes(b""), "empty"),
            (lambda f, out: f.write_bytes(PNGS[0][:50]), "f1.png"),
        ],
        ids=["link out", "dangling link", "empty", "truncated"],
    )
    def test_bad_files_are_left_out_and_listed(self, folder, tmp_path, make, reason):
        secret = tmp_path / "secret.png"
        secret.write_bytes(PNGS[1])
        (folder / "f1.png").unlink()
        make(folder / "f1.png", secret)
        corpus = dnmf.ingest(folder, tmp_path / "c", block_rows=5)
        rest = [i for i in range(12) if i != 1]
        check(corpus, [f"f{i}.png" for i in rest], rest)
        (reject,) = map(json.loads, (tmp_path / "c/rejects.jsonl").read_text().splitlines())
        assert reject["path"] == str(folder / "f1.png")
        assert reason in reject["reason"]
        with pytest.raises(BadImagesError, match=r"f1\.png"):
            dnmf.ingest(folder, tmp_path / "d", strict=True)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_no_permission(self, folder, tmp_path):
        (folder / "f3.png").chmod(0)
        assert len(dnmf.ingest(folder, tmp_path / "c")) == 11


def write_zip(path, names, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in names.items():
            file.writestr(name, content)
    return path


def write_tar(path, names):
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as file:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


MEMBERS = {f"f{i}.png": content for i, content in enumerate(PNGS)}


class TestArchives:
    @pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
    def test_members_are_read_without_extraction(self, tmp_path, name):
        write = write_zip if name.endswith("zip") else write_tar
        path = write(tmp_path / name, {"sub/notes.md": b"#", **MEMBERS})
        check(dnmf.ingest(path, tmp_path / "c", block_rows=5))
        assert sorted(os.listdir(tmp_path)) == [name, "c"]

    def test_shards_keep_labels_and_captions(self, tmp_path):
        members = {}
        for i, content in enumerate(PNGS):
            members |= {
                f"{i:03d}.png": content,
                f"{i:03d}.cls": str(i % 3).encode(),
                f"{i:03d}.json": json.dumps({"caption": f"no {i}", "boxes": [1, 2]}).encode(),
            }
        path = write_tar(tmp_path / "shard.tar", members)
        corpus = check(dnmf.ingest(path, tmp_path / "c"), [f"{i:03d}.png" for i in range(12)])
        assert corpus.metadata["cls"].tolist() == [i % 3 for i in range(12)]
        assert corpus.metadata["caption"].tolist() == [f"no {i}" for i in range(12)]

    def test_several_archives_have_their_names_in_the_ids(self, tmp_path):
        for i in (0, 1):
            write_zip(tmp_path / f"{i}.zip", {"x.png": PNGS[i]})
        corpus = dnmf.ingest([tmp_path / "0.zip", tmp_path / "1.zip"], tmp_path / "c")
        check(corpus, ["0.zip/x.png", "1.zip/x.png"], [0, 1])

    @pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "C:\\x.png"])
    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_hostile_names_are_refused(self, tmp_path, name, kind):
        write = write_zip if kind == "zip" else write_tar
        path = write(tmp_path / f"a.{kind}", {**MEMBERS, name: PNGS[0]})
        check(dnmf.ingest(path, tmp_path / "c"))
        assert "leads out of the archive" in (tmp_path / "c/rejects.jsonl").read_text()

    def test_links_in_a_tar_file_are_refused(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", MEMBERS)
        with tarfile.open(path, "a") as file:
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(link)
        check(dnmf.ingest(path, tmp_path / "c"))
        assert "is a link" in (tmp_path / "c/rejects.jsonl").read_text()

    def test_a_member_that_decompresses_to_far_more_is_left_out(self, tmp_path, monkeypatch):
        monkeypatch.setattr("dnmf.io.sources.places.archives.MEMBER_BYTES", 10_000)
        path = write_zip(tmp_path / "a.zip", {**MEMBERS, "z.png": bytes(10**6)})
        check(dnmf.ingest(path, tmp_path / "c"))
        assert "more than 10,000 bytes" in (tmp_path / "c/rejects.jsonl").read_text()

    @pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
    def test_damaged_archives(self, tmp_path, name):
        write = write_zip if name.endswith("zip") else write_tar
        path = write(tmp_path / name, MEMBERS)
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(IngestError, match=name):
            dnmf.ingest(path, tmp_path / "c")
        assert not (tmp_path / "c").exists()


class TestTables:
    TABLE = pd.DataFrame(
        {
            "file": [f"f{i}.png" for i in range(12)],
            "id": [f"patient {i}" for i in range(12)],
            "label": [i % 2 for i in range(12)],
            "weight": [i / 2 for i in range(12)],
            "site": ["north", ""] * 6,
            "code": [f"{i:03d}" for i in range(12)],
        }
    )

    @pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.feather", "frame"])
    def test_columns_are_kept(self, folder, tmp_path, name, monkeypatch):
        monkeypatch.chdir(folder)
        table = folder / name
        if name == "frame":
            table = self.TABLE
        elif name == "t.parquet":
            self.TABLE.to_parquet(table)
        elif name == "t.feather":
            self.TABLE.to_feather(table)
        else:
            self.TABLE.to_csv(table, sep="\t" if name == "t.tsv" else ",", index=False)
        corpus = dnmf.ingest(table, tmp_path / "c", block_rows=5)
        check(corpus, list(self.TABLE["id"]))
        found = corpus.metadata
        for column in ("label", "weight", "site", "code"):
            assert found[column].tolist() == self.TABLE[column].tolist()
        assert found["label"].dtype == np.int64

    def test_text_lists_one_path_in_each_line(self, folder, tmp_path):
        (folder / "list.txt").write_text("# the first two\nf1.png\nf0.png\n")
        check(dnmf.ingest(folder / "list.txt", tmp_path / "c"), ["f1.png", "f0.png"], [1, 0])

    def test_missing_numbers_are_nan(self, folder, tmp_path):
        (folder / "t.csv").write_text("path,age\nf0.png,3\nf1.png,\n")
        corpus = dnmf.ingest(folder / "t.csv", tmp_path / "c")
        assert np.isnan(corpus.metadata["age"].tolist()[1])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n1,2\n", "has the columns a, b, none of which holds paths"),
            ("path,b\nf0.png\n", "line 2: has fewer fields"),
            ("path,b\nf0.png,1,2\n", "line 2: has more fields"),
        ],
    )
    def test_wrong_tables(self, folder, tmp_path, text, message):
        (folder / "t.csv").write_text(text)
        with pytest.raises(IngestError, match=message):
            dnmf.ingest(folder / "t.csv", tmp_path / "c")

    @pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
    def test_damaged_tables(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"PAR1" + bytes(100))
        with pytest.raises(IngestError, match=rf"{name} cannot be read as Parquet or Arrow"):
            dnmf.ingest(tmp_path / name, tmp_path / "c")

    def test_files_that_are_not_there_are_left_out(self, folder, tmp_path):
        with open(folder / "t.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path"])
            rows.writerows([f"f{i}.png"] for i in [*range(12), 99])
        check(dnmf.ingest(folder / "t.csv", tmp_path / "c"))
        assert "f99.png" in (tmp_path / "c/rejects.jsonl").read_text()

    @pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
    @pytest.mark.parametrize("is_struct", [False, True])
    def test_images_in_a_column(self, tmp_path, is_struct, name):
        images = [{"bytes": content, "path": None} for content in PNGS] if is_struct else PNGS
        table = pa.table({"image": images, "label": [i % 3 for i in range(12)]})
        if name == "t.parquet":
            pq.write_table(table, tmp_path / name, row_group_size=5)
        else:
            with (
                pa.OSFile(f"{tmp_path}/{name}", "wb") as file,
                pa.ipc.new_file(file, table.schema) as writer,
            ):
                writer.write_table(table, max_chunksize=5)
        corpus = dnmf.ingest(tmp_path / name, tmp_path / "c", block_rows=5)
        check(corpus, [f"{name}:{i}" for i in range(12)])
        assert corpus.metadata["label"].tolist() == [i % 3 for i in range(12)]


class TestUrls:
    @pytest.fixture
    def bucket(self):
        fs = fsspec.filesystem("memory")
        for name, content in MEMBERS.items():
            fs.pipe(f"/bucket/in/{name}", content)
        fs.pipe("/bucket/in/notes.md", b"#")
        yield "memory://bucket"
        fs.rm("/bucket", recursive=True)

    def test_a_folder(self, bucket, tmp_path):
        check(dnmf.ingest(f"{bucket}/in", tmp_path / "c", block_rows=5))

    def test_patterns_and_files(self, bucket, tmp_path):
        check(
            dnmf.ingest(f"{bucket}/in/f1*.png", tmp_path / "c"),
            ["f1.png", "f10.png", "f11.png"],
            [1, 10, 11],
        )
        check(dnmf.ingest(f"{bucket}/in/f7.png", tmp_path / "d"), ["f7.png"], [7])

    def test_an_archive(self, bucket, tmp_path):
        local = write_zip(tmp_path / "a.zip", MEMBERS)
        fsspec.filesystem("memory").pipe("/bucket/a.zip", local.read_bytes())
        check(dnmf.ingest(f"{bucket}/a.zip", tmp_path / "c"))

    def test_from_a_url_to_a_url(self, bucket):
        check(dnmf.ingest(f"{bucket}/in", f"{bucket}/c.zarr", block_rows=5))

    def test_nothing_there(self, bucket, tmp_path):
        with pytest.raises(IngestError, match="nothing"):
            dnmf.ingest(f"{bucket}/nothing", tmp_path / "c")

    def test_places_are_sent_to_workers(self, bucket):
        from dnmf.io.sources.source import places_of

        places = places_of([f"{bucket}/in"])
        assert pickle.loads(pickle.dumps(places)) == places
