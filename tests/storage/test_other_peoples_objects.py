"""dnmf removes and replaces what it has written, and nothing else, whatever a file system says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import command_line
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import dnmf
from dnmf.errors import CheckpointError, DnmfError, OutputExistsError, ParameterError
from dnmf.io.export import write_pngs, write_reconstruction, write_weights
from dnmf.io.tables import Table, write_results
from dnmf.plot.contact_sheet import write_contact_sheet
from dnmf.storage.checkpoint.checkpoint import open_checkpoint
from dnmf.storage.store import ObjectStore

X = np.random.default_rng(0).random((20, 4, 4))


class Unreliable(MemoryFileSystem):
    """A file system that fails to read metadata as told: `fail` gets the path and may raise."""

    protocol = "unreliable"
    fail = staticmethod(lambda path: None)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("unreliable://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        if path.endswith("zarr.json"):
            Unreliable.fail(path)
        return super().cat_file(path, start, end, **kwargs)


fsspec.register_implementation("unreliable", Unreliable, clobber=True)

FAULTS = {
    "403": PermissionError("Forbidden"),
    "500": OSError(errno.EIO, "Internal Server Error"),
    "503": OSError("Please reduce your request rate."),
    "timeout": TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
}


@pytest.fixture
def unreliable(monkeypatch):
    """Let reads of metadata fail: all of them, or those that a number or more come before."""

    def break_reads(fault, only=None):
        seen = []

        def fail(path):
            seen.append(path)
            if only is None or len(seen) == only:
                raise FAULTS[fault]

        monkeypatch.setattr(Unreliable, "fail", staticmethod(fail))
        return seen

    yield break_reads
    monkeypatch.setattr(Unreliable, "fail", staticmethod(lambda path: None))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a corpus and the path of a model of it."""
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "x.npy", X)
    corpus = dnmf.ingest(folder / "x.npy", folder / "corpus.zarr", block_rows=8)
    dnmf.NMF(2, random_state=0, tol=0, max_iter=1).fit(corpus).save(folder / "model")
    return corpus, folder / "model"


def nmf(**options):
    return dnmf.NMF(2, **{"random_state": 0, "tol": 0, "max_iter": 2} | options)


RANK = {"tol": 0.5, "max_iter": 1, "random_state": 0}
WRITERS = {
    "ingest": lambda corpus, model, path, force: dnmf.ingest(
        Path(corpus.path).with_name("x.npy"), path, block_rows=8, force=force
    ),
    "fit": lambda corpus, model, path, force: nmf(checkpoint=path).fit(corpus, overwrite=force),
    "starts": lambda corpus, model, path, force: nmf(
        n_init=2, checkpoint=path.removesuffix(".starts")
    ).fit(corpus, overwrite=force),
    "save": lambda corpus, model, path, force: dnmf.load(model).save(path, force=force),
    "transform": lambda corpus, model, path, force: write_weights(
        dnmf.load(model), corpus, path, force=force
    ),
    "reconstruct": lambda corpus, model, path, force: write_reconstruction(
        dnmf.load(model), corpus, path, force=force
    ),
    "rank": lambda corpus, model, path, force: dnmf.rank_sweep(
        corpus, [1, 2], dnmf.NMF(**RANK), n_init=1, checkpoint=path, force=force
    ),
}
COMMANDS = {
    "ingest": lambda corpus, model, path: ["ingest", images_of(corpus), path],
    "plan": lambda corpus, model, path: ["ingest", "--plan", images_of(corpus), path],
    "part": lambda corpus, model, path: ["ingest", "--part", "1/1", path],
    "finish": lambda corpus, model, path: ["ingest", "--finish", path],
    "append": lambda corpus, model, path: ["ingest", "--append", images_of(corpus), path],
    "fit": lambda corpus, model, path: ["fit", corpus.path, path, "-k", 2, "--max-iter", 1],
    "continue": lambda corpus, model, path: ["fit", corpus.path, path, "--continue", model],
    "transform": lambda corpus, model, path: ["transform", model, corpus.path, path],
    "reconstruct": lambda corpus, model, path: ["reconstruct", model, corpus.path, path],
    "components": lambda corpus, model, path: ["components", model, "--out", path],
    "rank": lambda corpus, model, path: ["rank", corpus.path, path, "-k", "1-2", "--max-iter", 1],
    "plot": lambda corpus, model, path: ["plot", path, "--out", f"{corpus.path}-plots"],
    "show": lambda corpus, model, path: ["show", path, "--out", f"{corpus.path}.png"],
    "verify": lambda corpus, model, path: ["verify", path],
}
WRITING = [name for name in COMMANDS if name not in ("plot", "show", "verify")]


def images_of(corpus):
    return Path(corpus.path).with_name("x.npy")


S3 = pytest.param("s3", marks=pytest.mark.slow)


@pytest.fixture(params=["folder", "file", "memory", "unreliable", S3])
def prefix(request, tmp_path):
    """Return a place for a test's own objects, as a path or a URL."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3').url}/{tmp_path.name}"
    if request.param in ("folder", "file"):
        return str(tmp_path) if request.param == "folder" else tmp_path.as_uri()
    return f"{request.param}://{tmp_path.name}"


def content(path):
    store = ObjectStore(path)
    return {key: store.get(key, 10**7) for key in sorted(store.list_keys())}


def put_photos(path):
    for key in ("a.jpg", "2024/b.jpg", "pixels/c/0/0", "notes.txt"):
        ObjectStore(path).set(key, b"precious")
    return content(path)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_of_photos_stays(made, prefix, writer, force):
    path = f"{prefix}/photos{'.starts' * (writer == 'starts')}"
    before = put_photos(path)
    with pytest.raises(DnmfError, match=r"choose another path|is not a dnmf model|is no sweep"):
        WRITERS[writer](*made, path, force)
    assert content(path) == before
    if writer == "starts":
        assert content(path.removesuffix(".starts")) == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_touches_photos(made, prefix, command):
    path = f"{prefix}/photos"
    before = put_photos(path)
    line = COMMANDS[command](*made, path)
    assert "photos" in command_line.run(*line, status=1).stderr
    if command in WRITING:
        with pytest.raises(AssertionError):  # no success: not every option goes with --force
            command_line.run(*line, "--force")
    assert content(path) == before
    assert {key.partition("/")[0] for key in content(prefix)} == {"photos"}


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITING)
def test_no_command_touches_a_bucket(made, s3, command):
    s3.put("photos/a.jpg")
    s3.put("b.jpg")
    before = s3.content()
    for url in (s3.url, f"{s3.url}/"):
        for force in ([], ["--force"]):
            with pytest.raises(AssertionError, match="Error"):
                command_line.run(*COMMANDS[command](*made, url), *force)
    assert s3.content() == before


@pytest.mark.slow
def test_a_resume_from_s3_that_cannot_read_changes_nothing(made, s3, monkeypatch):
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    path = f"{s3.url}/m"
    nmf(max_iter=3, checkpoint_keep=3, checkpoint=path).fit(made[0])
    before = s3.content()
    newest = open_checkpoint(path).name
    cases = [(key, 403) for key in before if newest in key or key.endswith("zarr.json")]
    cases += [("m/zarr.json", 500), (f"{newest}/zarr.json", 503)]  # tried again, which takes long
    ends = []
    for key, status in cases:
        with s3.answers(f"{key}$", status):
            try:
                nmf(max_iter=3, checkpoint_keep=3, checkpoint=path).fit(
                    made[0], overwrite=key == "m/zarr.json"
                )
            except DnmfError as error:
                ends.append(str(error))
        assert s3.content() == before, (key, status)
    assert len(ends) > 5
    assert all(path in end for end in ends)


def test_a_fit_without_starts_of_its_own_leaves_a_folder_of_that_name(made, prefix):
    before = put_photos(f"{prefix}/m.starts")
    nmf(checkpoint=f"{prefix}/m").fit(made[0])
    nmf(checkpoint=f"{prefix}/m").fit(made[0], overwrite=True)
    assert content(f"{prefix}/m.starts") == before


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "starts"])
def test_force_replaces_a_store_and_not_what_somebody_put_into_it(made, prefix, writer):
    path = f"{prefix}/out"
    WRITERS[writer](*made, path, False)
    WRITERS[writer](*made, path, True)
    assert dnmf.verify(path).findings == []
    ObjectStore(path).set("notes/mine.txt", b"precious")
    before = content(path)
    with pytest.raises(OutputExistsError, match=r"holds notes/mine\.txt, which dnmf did not write"):
        WRITERS[writer](*made, path, True)
    assert content(path) == before


@pytest.mark.parametrize(
    ("fault", "force"), [("403", True), ("500", False), ("503", True), ("timeout", False)]
)
@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "starts"])
def test_metadata_that_cannot_be_read_for_a_moment_is_not_absent(
    made, tmp_path, unreliable, writer, force, fault
):
    path = f"unreliable://{tmp_path.name}/out"
    WRITERS[writer](*made, path, False)
    before = content(path)
    unreliable(fault)
    with pytest.raises(DnmfError) as error:
        WRITERS[writer](*made, path, force)
    reason = FAULTS[fault].strerror or str(FAULTS[fault])
    assert path in str(error.value)
    assert reason in str(error.value)
    assert "run the same again" in str(error.value)
    unreliable("403", only=0)
    assert content(path) == before


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "starts"])
def test_metadata_that_is_no_json_is_not_absent(made, prefix, writer):
    path = f"{prefix}/out"
    WRITERS[writer](*made, path, False)
    ObjectStore(path).set("zarr.json", b'{"zarr_format": 3, "attri')
    before = content(path)
    for force in (False, True):
        with pytest.raises(DnmfError, match=r"copy|any other model will do"):
            WRITERS[writer](*made, path, force)
    assert content(path) == before


@pytest.mark.parametrize("fault", ["403", "503"])
def test_a_resume_that_cannot_read_leaves_the_checkpoint_whole(made, tmp_path, unreliable, fault):
    """... at whichever of its reads."""
    path = f"unreliable://{tmp_path.name}/m"
    nmf(max_iter=5, checkpoint_keep=5, checkpoint=path).fit(made[0])
    passes = [name for name in ObjectStore(path).list_dir() if name.startswith("pass")]
    ends = set()
    for number in range(1, 100):
        seen = unreliable(fault, only=number)
        try:
            nmf(max_iter=5, checkpoint_keep=5, checkpoint=path).fit(made[0])
            ends.add("read")
        except CheckpointError as error:
            ends.add("refused" if path in str(error) else str(error))
        n_reads = len(seen)
        unreliable(fault, only=0)
        assert {*passes} <= {*ObjectStore(path).list_dir()}
        assert open_checkpoint(path).state.n_iter == 5
        assert dnmf.verify(path).findings == []
        if n_reads < number:
            break
    assert ends == {"refused", "read"}
    assert number > 5


def test_a_place_that_cannot_be_listed_is_not_absent(made, tmp_path, monkeypatch):
    path = f"unreliable://{tmp_path.name}/photos"
    before = put_photos(path)

    def ls(*_, **__):
        raise PermissionError("Access Denied")

    for writer, write in WRITERS.items():
        with monkeypatch.context() as patch:
            patch.setattr(Unreliable, "ls", ls)
            with pytest.raises(OSError, match="Access Denied"):
                write(*made, path, True)
        assert content(path) == before, writer


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_without_rights_is_not_absent(made, tmp_path, writer):
    put_photos(str(tmp_path / "closed/photos"))
    (tmp_path / "closed").chmod(0)
    with pytest.raises(DnmfError):
        WRITERS[writer](*made, str(tmp_path / "closed/photos"), True)
    (tmp_path / "closed").chmod(0o700)
    assert len(content(str(tmp_path / "closed/photos"))) == 4


@pytest.mark.parametrize("root", ["memory://", "memory:///", "file:///", "/", "unreliable://"])
@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "starts"])
def test_all_of_a_file_system_is_no_target(made, tmp_path, root, writer):
    before = put_photos(f"memory://{tmp_path.name}")
    with pytest.raises(OutputExistsError, match="choose a path inside it"):
        WRITERS[writer](*made, root, True)
    assert content(f"memory://{tmp_path.name}") == before


class Buckets(MemoryFileSystem):
    """A file system whose paths begin with a bucket, as those of object stores do."""

    protocol = "buckets"
    root_marker = ""

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("buckets://").strip("/")


def test_a_bucket_is_no_target(made):
    fsspec.register_implementation("buckets", Buckets, clobber=True)
    for path in ("buckets://photos", "buckets://photos/", "buckets://"):
        for force in (False, True):
            with pytest.raises(OutputExistsError, match=r"choose a path inside it, such as"):
                WRITERS["ingest"](*made, path, force)


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "starts"])
def test_an_empty_path_is_no_folder(made, tmp_path, monkeypatch, writer):
    before = put_photos(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match="the path is ''"):
        WRITERS[writer](*made, "", True)
    assert content(str(tmp_path)) == before


def test_a_file_with_a_slash_behind_it_is_a_file(made, tmp_path):
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(OutputExistsError, match="not written by dnmf"):
        WRITERS["ingest"](*made, f"{tmp_path}/notes/", True)
    assert (tmp_path / "notes").read_text() == "precious"


@pytest.mark.parametrize("writer", ["ingest", "fit", "save", "transform", "reconstruct"])
def test_what_a_killed_process_left_at_a_url_is_replaced(made, tmp_path, monkeypatch, writer):
    """... by the same again, and by nothing else."""
    path = f"memory://{tmp_path.name}/out"
    killed = {
        "ingest": "dnmf.io.finish.commit_corpus",
        "transform": "dnmf.io.export.commit_weights",
        "reconstruct": "dnmf.io.export.commit_corpus",
    }.get(writer, "dnmf.storage.checkpoint.checkpoint.Checkpoint._commit")

    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(killed, kill)
        with pytest.raises(KeyboardInterrupt):
            WRITERS[writer](*made, path, False)
    assert "zarr.json" in content(path)
    other = "ingest" if writer in ("fit", "save", "transform") else "transform"
    with pytest.raises(DnmfError, match="unfinished dnmf-"):
        WRITERS[other](*made, path, True)
    with pytest.raises(DnmfError, match="unfinished dnmf-"):
        dnmf.verify(path)
    WRITERS[writer](*made, path, False)
    assert dnmf.verify(path).findings == []


def test_what_appears_while_a_store_is_built_stays(made, tmp_path):
    corpus, _ = made

    def photos_arrive(done, total):
        put_photos(str(tmp_path / "out"))

    images = Path(corpus.path).with_name("x.npy")
    with pytest.raises(OutputExistsError, match="not written by dnmf"):
        dnmf.ingest(images, tmp_path / "out", on_progress=photos_arrive)
    assert sorted(os.listdir(tmp_path)) == [".out.ingest", "out"]
    assert len(content(str(tmp_path / "out"))) == 4


def test_names_with_signs_of_patterns_are_no_patterns(made):
    paths = [f"memory://run{sign}/m" for sign in ("1", "*", "[1]", "?")]
    for path in paths:
        nmf(checkpoint=path, checkpoint_keep=4, max_iter=4).fit(made[0])
    before = content(paths[0])
    for path in paths[1:]:
        nmf(checkpoint=path, checkpoint_keep=1, max_iter=6).fit(made[0])
        nmf(checkpoint=path).fit(made[0], overwrite=True)
    assert content(paths[0]) == before


def test_a_file_where_the_fits_of_n_init_belong_stays(made, tmp_path):
    file = tmp_path / "m.starts"
    file.write_text("precious")
    with pytest.raises(OutputExistsError, match="holds a file"):
        nmf(n_init=2, checkpoint=tmp_path / "m").fit(made[0])
    assert file.read_text() == "precious"


def test_a_fit_that_came_to_nothing_makes_room_for_another(made, tmp_path):
    path, bad = tmp_path / "m", X.reshape(20, 16).astype(float)
    bad[3, 5] = -1
    with pytest.raises(DnmfError, match="negative"):
        nmf(checkpoint=path).fit(bad)
    assert path.exists()
    model = dnmf.NMF(3, random_state=0, tol=0, max_iter=2, checkpoint=path).fit(made[0])
    assert (dnmf.load(path).components_ == model.components_).all()


def test_a_store_with_a_longer_name_may_be_built_beside(made, tmp_path):
    building = tmp_path / ".m.zarr.0123456789ab.partial"
    before = put_photos(str(building))
    nmf(checkpoint=tmp_path / "m").fit(made[0])
    assert content(str(building)) == before


def test_a_saved_model_is_no_start_that_came_to_nothing(made, tmp_path):
    """... though it has no losses, as a model of partial_fit."""
    corpus, _ = made
    model = nmf().partial_fit(X.reshape(20, 16))
    model.save(tmp_path / "m")
    with pytest.raises(CheckpointError, match="belongs to another fit"):
        nmf(checkpoint=tmp_path / "m").fit(corpus)
    assert (dnmf.load(tmp_path / "m").components_ == model.components_).all()


def test_a_lock_that_is_somebodys_file_stays(made, tmp_path):
    (tmp_path / ".m.lock").write_text("precious")
    with pytest.raises(OutputExistsError, match="move it"):
        nmf(checkpoint=tmp_path / "m").fit(made[0])
    assert (tmp_path / ".m.lock").read_text() == "precious"


class TestPictures:
    def test_pngs_replace_those_of_dnmf_alone(self, made, tmp_path):
        corpus, path = made
        model = dnmf.load(path)
        write_pngs(model, corpus, slice(0, 2), tmp_path / "p")
        with pytest.raises(OutputExistsError, match="pass --force"):
            write_pngs(model, corpus, slice(0, 2), tmp_path / "p")
        write_pngs(model, corpus, slice(0, 3), tmp_path / "p", force=True)
        assert len(os.listdir(tmp_path / "p")) == 3
        Image.new("L", (4, 4)).save(tmp_path / "p/000001.png")
        before = content(str(tmp_path / "p"))
        with pytest.raises(OutputExistsError, match=r"000001\.png exists"):
            write_pngs(model, corpus, slice(0, 3), tmp_path / "p", force=True)
        assert content(str(tmp_path / "p")) == before

    def test_plots_replace_those_of_dnmf_alone(self, made, tmp_path):
        model = dnmf.load(made[1])
        dnmf.plot.write_plots(model, tmp_path)
        (tmp_path / "notes.txt").write_text("precious")
        dnmf.plot.write_plots(model, tmp_path)
        Image.new("L", (4, 4)).save(tmp_path / "loss.png")
        before = content(str(tmp_path))
        with pytest.raises(OutputExistsError, match=r"loss\.png exists"):
            dnmf.plot.write_plots(model, tmp_path)
        assert content(str(tmp_path)) == before

    def test_those_at_a_url_are_replaced_alike(self, made, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        corpus, model = made[0], dnmf.load(made[1])
        url = f"memory://{tmp_path.name}"
        for _ in range(2):
            dnmf.plot.write_plots(model, f"{url}/plots", corpus)
            write_contact_sheet(corpus, f"{url}/plots/sheet.png")
            write_pngs(model, corpus, slice(0, 2), f"{url}/pngs", force=True)
        assert len(content(f"{url}/plots")) == 4
        assert len(content(f"{url}/pngs")) == 2
        for name in ("plots/sheet.png", "plots/loss.png", "pngs/000001.png"):
            ObjectStore(url).set(name, b"precious")
        before = content(url)
        with pytest.raises(OutputExistsError, match=r"loss\.png exists"):
            dnmf.plot.write_plots(model, f"{url}/plots")
        with pytest.raises(OutputExistsError, match=r"sheet\.png exists"):
            write_contact_sheet(corpus, f"{url}/plots/sheet.png")
        with pytest.raises(OutputExistsError, match=r"000001\.png exists"):
            write_pngs(model, corpus, slice(0, 2), f"{url}/pngs", force=True)
        assert content(url) == before
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_tables_at_a_url_are_replaced_alike(self, made, tmp_path, monkeypatch, kind):
        monkeypatch.chdir(tmp_path)
        corpus, model = made[0], dnmf.load(made[1])
        url = f"memory://{tmp_path.name}/t.{kind}"
        write_results(model, corpus, None, [Table(tmp_path / "t", kind)])
        write_results(model, corpus, None, [Table(url, kind)])
        write_results(model, corpus, None, [Table(url, kind, force=True)])
        assert content(f"memory://{tmp_path.name}") == {f"t.{kind}": (tmp_path / "t").read_bytes()}
        with pytest.raises(OutputExistsError, match="pass --force"):
            Table(url, kind)
        ObjectStore(f"memory://{tmp_path.name}").set(f"t.{kind}", b"precious")
        with pytest.raises(OutputExistsError, match="no table of weights"):
            Table(url, kind, force=True)
        assert os.listdir(tmp_path) == ["t"]

    def test_the_demo_writes_into_no_other_folder(self, tmp_path):
        before = put_photos(str(tmp_path / "photos"))
        for force in ([], ["--force"]):
            command_line.run("demo", "--out", tmp_path / "photos", *force, status=1)
        assert content(str(tmp_path / "photos")) == before


@pytest.mark.parametrize("fault", ["403", "503"])
def test_what_cannot_be_opened_for_a_moment_is_not_called_another_thing(
    made, tmp_path, unreliable, fault
):
    path = f"unreliable://{tmp_path.name}/"
    WRITERS["ingest"](*made, f"{path}c", False)
    WRITERS["transform"](*made, f"{path}w", False)
    WRITERS["save"](*made, f"{path}m", False)
    WRITERS["rank"](*made, f"{path}s", False)
    openers = {
        "c": dnmf.open_corpus,
        "w": dnmf.open_weights,
        "m": dnmf.load,
        "s": dnmf.load_sweep,
    }
    unreliable(fault)
    for name, opener in openers.items():
        for act in (opener, dnmf.verify):
            with pytest.raises(DnmfError, match="run the same again") as error:
                act(f"{path}{name}")
            assert "ingest" not in str(error.value)


def test_force_at_a_url_keeps_the_old_store_until_the_new_one_can_be_written(made, tmp_path):
    corpus, model = made
    path = f"memory://{tmp_path.name}"
    for writer in ("ingest", "transform"):
        WRITERS[writer](corpus, model, f"{path}/{writer}", False)
    before = content(path)
    with pytest.raises(DnmfError):
        dnmf.ingest(tmp_path / "a slip of the keyboard", f"{path}/ingest", force=True)
    narrow = dnmf.NMF(2, max_iter=1, tol=0).fit(np.ones((4, 9)))
    for write, name in ((write_weights, "transform"), (write_reconstruction, "ingest")):
        with pytest.raises(DnmfError, match="pixels"):
            write(narrow, corpus, f"{path}/{name}", force=True)
    assert content(path) == before
