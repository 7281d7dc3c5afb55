"""Options of file systems reach whoever opens a URL, workers too, and are written nowhere."""

from __future__ import annotations

import logging
from pathlib import Path

import cloudpickle
import command_line
import fsspec
import guarded
import numpy as np
import pytest
import zarr
from guarded import OPTIONS, TOKEN

import dnmf
from dnmf import _access
from dnmf.errors import AccessError, DnmfError
from dnmf.estimators.inputs import open_mask
from dnmf.io.components import write_components
from dnmf.io.export import write_reconstruction, write_weights
from dnmf.io.in_place import ImagesInPlace
from dnmf.io.sources.choices import Choices
from dnmf.storage.paths import for_zarr

X = np.random.default_rng(0).integers(1, 255, (40, 4, 5)).astype(np.uint8)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    guarded.register()
    monkeypatch.setattr(_access, "_own", {})


@pytest.fixture
def folder(tmp_path):
    """Return the URL of a guarded folder, which holds images, and a corpus of them."""
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/x.npy", X)
    url = f"guarded://{tmp_path}"
    dnmf.ingest(f"{url}/in/x.npy", f"{url}/corpus", block_rows=10, storage_options=OPTIONS)
    return url


@pytest.fixture
def sent(monkeypatch):
    """Collect what is pickled for a cluster, but for the plugin that is made to hold options."""
    from distributed.protocol import pickle

    found = []
    dumps = pickle.dumps

    def record(value, *args, **kwargs):
        content = dumps(value, *args, **kwargs)
        if "Plugin" not in type(value).__name__:
            found.append(bytes(content))
        return content

    monkeypatch.setattr(pickle, "dumps", record)
    return found


def nmf(**options):
    return dnmf.NMF(2, **{"random_state": 0, "tol": 0, "max_iter": 2} | options)


def options_of_others():
    from dnmf import _access

    return dict(_access._of_others)


def test_a_secret_is_in_nothing_that_is_kept_or_sent(folder, tmp_path, client, sent, caplog):
    caplog.set_level(logging.DEBUG)
    client.run(guarded.register)
    corpus = dnmf.open_corpus(f"{folder}/corpus")
    zarr.save_array(for_zarr(f"{folder}/mask"), np.zeros(corpus.shape, bool))
    zarr.save_array(for_zarr(f"{folder}/array"), X)
    mask = open_mask(f"{folder}/mask", corpus.shape)
    in_place = ImagesInPlace(f"{folder}/array", Choices())
    dnmf.ingest(f"{folder}/in/x.npy", f"{folder}/again", block_rows=10)
    model = nmf(checkpoint=f"{folder}/model").fit(corpus, mask=mask)
    nmf(checkpoint=f"{folder}/model-in-place").fit(in_place)
    write_weights(model, corpus, f"{folder}/weights")
    write_reconstruction(model, corpus, f"{folder}/reconstruction")
    write_components(model, f"{folder}/components")
    dnmf.rank_sweep(corpus, [2], nmf(tol=0.5), n_init=2, checkpoint=f"{folder}/sweep")
    assert dnmf.verify(f"{folder}/reconstruction").findings == []
    assert client.run(options_of_others) == {
        address: {} for address in client.scheduler_info()["workers"]
    }

    (model_again := dnmf.load(f"{folder}/model")).save(f"{folder}/saved")
    kept = [corpus, mask, in_place, model, model_again, corpus.to_dask(), model.transform(corpus)]
    assert any(b"_run_group" in content for content in sent)
    assert not any(TOKEN.encode() in content for content in [*sent, *map(cloudpickle.dumps, kept)])
    assert not any(TOKEN in text for text in [caplog.text, *map(repr, kept)])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)


def test_without_options_workers_may_not_read(folder, client, monkeypatch):
    client.run(guarded.register)
    corpus = dnmf.open_corpus(f"{folder}/corpus")
    monkeypatch.setattr(_access, "_own", {})
    with pytest.raises((DnmfError, OSError), match="access denied: the token is wrong"):
        nmf().fit(corpus)


def test_a_secret_is_in_no_error(folder):
    wrong = "marker-of-a-wrong-secret"
    with pytest.raises(DnmfError, match=r"access denied: the token \.\.\. is wrong") as error:
        dnmf.open_corpus(f"{folder}/corpus", storage_options={"token": wrong})
    assert wrong not in str(error.value)
    with pytest.raises(OSError, match="cannot be listed: access denied") as error:
        nmf().fit(X.reshape(40, -1)).save(f"{folder}/m", storage_options={"token": wrong})
    assert wrong not in str(error.value)


def test_every_command_takes_options(folder, tmp_path):
    option = ("--storage-option", f"token={TOKEN}")

    def run(*arguments):
        _access._own.clear()
        return command_line.run(*arguments, *option).output

    model, corpus = f"{folder}/m", f"{folder}/c"
    run("ingest", f"{folder}/in/x.npy", corpus, "--block-rows", "10")
    run("plan", corpus, "-k", "2", "--no-trial")
    run("fit", corpus, model, "-k", "2", "--max-iter", "2", "--mask", _mask(folder))
    run("rank", corpus, f"{folder}/s", "-k", "2", "--max-iter", "2", "--seeds", "2")
    run("transform", model, corpus, f"{folder}/w", "--csv", f"{folder}/w.csv")
    run("reconstruct", model, corpus, f"{folder}/r")
    run("reconstruct", model, corpus, "--png", f"{folder}/pngs")
    run("components", model, "--out", f"{folder}/components")
    run("plot", model, "--corpus", corpus, "--out", f"{folder}/plots")
    run("plot", f"{folder}/s", "--out", f"{folder}/plots")
    run("show", corpus, "--out", f"{folder}/sheet.png")
    for path in (corpus, model, f"{folder}/w", f"{folder}/s"):
        run("info", path)
        run("verify", path)
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"w.csv", "pngs", "components", "plots", "sheet.png"}
    _access._own.clear()
    assert "access denied" in command_line.run("info", corpus, status=1).stderr


def _mask(folder):
    _access.remember_options(OPTIONS, folder)
    zarr.save_array(for_zarr(f"{folder}/mask"), np.zeros((40, 20), bool))
    return f"{folder}/mask"


def test_every_command_offers_them():
    from dnmf.cli.main import main

    for name in set(main.commands) - {"demo"}:
        assert "--storage-option" in command_line.run(name, "--help").output, name


def test_urls_in_a_table_have_the_options_of_the_call(tmp_path, folder):
    _access._own.clear()
    (tmp_path / "list.csv").write_text(f"path\n{folder}/in/x.npy\n")
    corpus = dnmf.ingest(tmp_path / "list.csv", tmp_path / "c", storage_options=OPTIONS)
    assert (corpus.images(slice(None)) == X).all()


def test_a_plan_is_carried_out_with_the_options_of_each_call(folder, tmp_path):
    from dnmf.io.ingest import finish_parts, ingest_part, plan_ingest

    source = f"{folder}/in/x.npy"
    plan_ingest(source, tmp_path / "c", block_rows=10, storage_options=OPTIONS)
    for number in (1, 2):
        _access._own.clear()
        ingest_part(tmp_path / "c", number, 2, storage_options=OPTIONS)
    _access._own.clear()
    corpus = finish_parts(tmp_path / "c", storage_options=OPTIONS)
    assert (corpus.images(slice(None)) == X).all()


class TestWhichOptions:
    def test_they_belong_to_a_place(self):
        _access.remember_options({"a": 1}, "s3://one/x", "memory://b/c")
        assert _access.options_at("memory://b/other") == {"a": 1}
        assert _access.options_at("memory://other/c") == {}
        _access.remember_options(None, "memory://b/c")
        assert _access.options_at("memory://b") == {"a": 1}
        _access.remember_options({}, "memory://b/c")
        assert _access.options_at("memory://b") == {}

    def test_those_of_a_protocol_are_for_it_alone(self):
        options = {"memory": {"a": 1}, "s3": {"key": "x"}, "headers": {"b": 2}}
        _access.remember_options(options, "memory://b", "guarded://c")
        assert _access.options_at("memory://b/x") == {"headers": {"b": 2}, "a": 1}
        assert _access.options_at("guarded://c/x") == {"headers": {"b": 2}}

    def test_without_any_those_of_fsspec_hold(self, folder, monkeypatch):
        _access._own.clear()
        monkeypatch.setitem(fsspec.config.conf, "guarded", OPTIONS)
        assert len(dnmf.open_corpus(f"{folder}/corpus")) == 40


@pytest.mark.parametrize(
    ("url", "extra"), [("s3://b/x", "s3"), ("gs://b/x", "gcs"), ("az://b/x", "azure")]
)
def test_a_missing_library_is_named_by_every_command(url, extra, monkeypatch, tmp_path):
    def absent(protocol):
        raise ImportError(f"Install the library of {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    np.save(tmp_path / "x.npy", X)
    for arguments in (
        ("info", url),
        ("fit", url, tmp_path / "m", "-k", "2"),
        ("fit", tmp_path / "x.npy", url, "-k", "2"),
        ("ingest", url, tmp_path / "c"),
        ("ingest", tmp_path / "x.npy", url),
    ):
        message = command_line.run(*arguments, status=1).stderr.splitlines()[-1]
        assert f"pip install 'dnmf[{extra}]'" in message


def test_no_such_protocol():
    with pytest.raises(AccessError, match=r"no file system of fsspec; common ones are s3://"):
        dnmf.open_corpus("nobody-knows://a/b")


def test_extras_are_declared():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for extra in set(_access.EXTRAS.values()):
        assert f"\n{extra} = [" in text
