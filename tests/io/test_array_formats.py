"""Zarr, OME-Zarr, HDF5 and what is written in it: which array is meant, and its axes."""

from __future__ import annotations

import sys
from functools import partial
from subprocess import PIPE, Popen

import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr

import dnmf
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.formats.registry import open_image_file

RNG = np.random.default_rng(0)
X = RNG.integers(0, 4000, (6, 2, 9, 7), dtype="u2")


def opened(path, **choices):
    file = ImageFile(str(path), partial(open, path, "rb"), path)
    return open_image_file(file, Choices(**choices))


def write_ome(path, version, axes="tcyx"):
    group = zarr.create_group(path, zarr_format=3 if version == "0.5" else 2)
    named = [{"name": a, "type": {"t": "time", "c": "channel"}.get(a, "space")} for a in axes]
    image = {"version": version, "axes": named}
    if version == "0.3":
        image["axes"] = list(axes)
    elif version == "0.1":
        del image["axes"]
    image["datasets"] = [{"path": str(level)} for level in range(2)]
    omero = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    described = {"multiscales": [image], "omero": omero}
    group.attrs.put({"ome": {"version": version, **described}} if version == "0.5" else described)
    group.create_array("0", data=X if len(axes) == 4 else X[:, :, None], chunks="auto")
    group.create_array("1", data=X[:, :, ::2, ::2], chunks="auto")


class TestZarr:
    @pytest.mark.parametrize("version", ["0.1", "0.3", "0.4", "0.5"])
    def test_ome(self, tmp_path, version):
        write_ome(tmp_path / "o.zarr", version, "tczyx" if version == "0.1" else "tcyx")
        image = opened(tmp_path / "o.zarr")
        assert image.axes == (("t", "c", "z", "y", "x") if version == "0.1" else tuple("tcyx"))
        assert list(image.coords["c"]) == ["DAPI", "GFP"]
        corpus = dnmf.ingest(tmp_path / "o.zarr", tmp_path / "c", channel="GFP")
        assert (corpus.images(slice(None)) == X[:, 1]).all()

    def test_the_only_image_of_a_group(self, tmp_path):
        """... as bioformats2raw writes it."""
        zarr.create_group(tmp_path / "b.zarr", zarr_format=2)
        write_ome(tmp_path / "b.zarr/0", "0.4")
        assert opened(tmp_path / "b.zarr").axes == tuple("tcyx")
        write_ome(tmp_path / "b.zarr/1", "0.4")
        with pytest.raises(IngestError, match=r"2 arrays; .*: 0 \(OME-Zarr\), 1"):
            opened(tmp_path / "b.zarr")
        assert opened(tmp_path / "b.zarr", array="1", level=1).array.shape == (6, 2, 5, 4)

    def test_levels(self, tmp_path):
        write_ome(tmp_path / "o.zarr", "0.4")
        assert opened(tmp_path / "o.zarr", level=1).array.shape == (6, 2, 5, 4)
        with pytest.raises(IngestError, match="a pyramid of 2 levels; give --level from 0 to 1"):
            opened(tmp_path / "o.zarr", level=2)
        zarr.create_array(tmp_path / "a.zarr", data=X)
        with pytest.raises(IngestError, match="no pyramid of resolutions; leave out --level 1"):
            opened(tmp_path / "a.zarr", level=1)

    def test_groups(self, tmp_path):
        group = zarr.create_group(tmp_path / "g.zarr")
        with pytest.raises(IngestError, match="holds no arrays"):
            opened(tmp_path / "g.zarr")
        group.create_array("run/x", data=X)
        group.create_array("run/times", data=np.arange(6.0))
        assert opened(tmp_path / "g.zarr").name == f"{tmp_path}/g.zarr::run/x"
        group.create_array("y", data=X[0])
        with pytest.raises(IngestError, match=r"2 arrays; .*: run/x \(6 x 2 x 9 x 7 uint16"):
            opened(tmp_path / "g.zarr")
        assert opened(tmp_path / "g.zarr", array="/y").array.shape == (2, 9, 7)
        with pytest.raises(IngestError, match="holds no array 'z'; name one"):
            opened(tmp_path / "g.zarr", array="z")

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_what_xarray_writes(self, tmp_path, zarr_format):
        import xarray as xr

        cube = xr.DataArray(
            X[:, 0].astype("f4"), dims=["Time", "y", "x"], coords={"Time": np.arange(6) / 2}
        )
        cube.to_dataset(name="v").to_zarr(
            tmp_path / "x.zarr", zarr_format=zarr_format, consolidated=False
        )
        image = opened(tmp_path / "x.zarr")
        assert image.axes == ("time", "y", "x")
        corpus = dnmf.ingest(tmp_path / "x.zarr", tmp_path / "c")
        assert (corpus.images(slice(None)) == X[:, 0]).all()

    def test_metadata_that_promise_too_much(self, tmp_path):
        huge = (10, 10**5, 10**5)
        zarr.create_array(tmp_path / "c.zarr", shape=huge, chunks=huge, dtype="u1")
        with pytest.raises(IngestError, match=r"c\.zarr: its chunks of .* smaller chunks"):
            dnmf.ingest(tmp_path / "c.zarr", tmp_path / "c")
        zarr.create_array(tmp_path / "a.zarr", shape=huge, chunks=(1, 9, 9), dtype="u1")
        with pytest.raises(IngestError, match=r"a\.zarr has images of 100000 x 100000, more than"):
            dnmf.ingest(tmp_path / "a.zarr", tmp_path / "c")

    def test_what_is_no_zarr(self, tmp_path):
        (tmp_path / "e.zarr").mkdir()
        with pytest.raises(IngestError, match=r"e\.zarr: no Zarr array or group is there"):
            opened(tmp_path / "e.zarr")

    def test_nothing_is_unpickled(self, tmp_path):
        """Zarr knows a codec that does so; a store that names it is refused."""
        import json

        metadata = {
            "zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": "<f4", "fill_value": 0,
            "order": "C", "filters": None, "compressor": {"id": "pickle", "protocol": 5},
        }  # fmt: skip
        (tmp_path / "p.zarr").mkdir()
        (tmp_path / "p.zarr/.zarray").write_text(json.dumps(metadata))
        (tmp_path / "p.zarr/0.0").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        with pytest.raises(IngestError):
            dnmf.ingest(tmp_path / "p.zarr", tmp_path / "c")


@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_packed_numbers_are_not_taken_for_pixels(tmp_path, kind):
    path = tmp_path / f"p.{kind}"
    if kind == "zarr":
        zarr.create_array(path, data=X).attrs.update({"scale_factor": 0.5, "add_offset": 2.0})
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=X).attrs.update({"scale_factor": 0.5})
    with pytest.raises(IngestError, match=r"packed: times 0\.5.* open it with xarray"):
        opened(path)


class TestHdf5:
    def test_one_dataset_or_a_name(self, tmp_path):
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["a/x"] = X[:, 0]
            file["a/times"] = np.arange(6)
        assert opened(tmp_path / "f.h5").array.shape == (6, 9, 7)
        with h5py.File(tmp_path / "f.h5", "a") as file:
            file["b"] = X[0]
        with pytest.raises(IngestError, match=r"2 datasets .*: /a/x \(6 x 9 x 7 uint16"):
            opened(tmp_path / "f.h5")
        with pytest.raises(IngestError, match="no dataset 'c'"):
            opened(tmp_path / "f.h5", array="c")
        corpus = dnmf.ingest(f"{tmp_path}/f.h5::/a/x", tmp_path / "c.zarr")
        assert (corpus.images(slice(None)) == X[:, 0]).all()
        assert opened((tmp_path / "f.h5").rename(tmp_path / "f.data"), array="b") is not None

    def test_nexus(self, tmp_path):
        with h5py.File(tmp_path / "n.nxs", "w") as file:
            file.attrs["default"] = "entry"
            file.create_group("entry").attrs["default"] = "scan"
            scan = file.create_group("entry/scan")
            scan.attrs.update({"signal": "counts", "axes": ["angle", "y", "x"]})
            scan["counts"], scan["angle"] = X[:, 0], np.linspace(0, 1, 6)
            file["entry/other"] = X
        for choices in ({}, {"array": "/entry/scan"}):
            image = opened(tmp_path / "n.nxs", **choices)
            assert image.array.name == "/entry/scan/counts"
            assert image.axes == ("angle", "y", "x")
            assert (image.coords["angle"] == np.linspace(0, 1, 6)).all()

    def test_hyperspy(self, tmp_path):
        with h5py.File(tmp_path / "s.hspy", "w") as file:
            group = file.create_group("Experiments/map")
            group["data"] = RNG.random((4, 5, 20)).astype("f4")
            for i, (name, size) in enumerate((("y", 4), ("x", 5), ("Energy", 20))):
                axis = group.create_group(f"axis-{i}")
                axis.attrs.update({"name": name, "scale": 0.5, "offset": 1.0, "size": size})
        image = opened(tmp_path / "s.hspy")
        assert image.axes == ("y", "x", "energy")
        assert (image.coords["energy"] == 1 + np.arange(20) / 2).all()

    @pytest.mark.parametrize("kind", ["external link", "virtual", "external data"])
    def test_links_out_of_the_folder_are_refused(self, tmp_path, kind):
        (tmp_path / "mine").mkdir()
        (tmp_path / "raw").write_bytes(X.tobytes())
        with h5py.File(tmp_path / "secret.h5", "w") as file:
            file["x"] = X
        with h5py.File(tmp_path / "mine/f.h5", "w") as file:
            if kind == "external link":
                file["x"] = h5py.ExternalLink("../secret.h5", "x")
            elif kind == "virtual":
                layout = h5py.VirtualLayout(X.shape, X.dtype)
                layout[:] = h5py.VirtualSource("../secret.h5", "x", X.shape)
                file.create_virtual_dataset("x", layout)
            else:
                where = [(str(tmp_path / "raw"), 0, X.nbytes)]
                file.create_dataset("x", X.shape, X.dtype, external=where)
        with pytest.raises(IngestError, match="out of its folder; give that file"):
            opened(tmp_path / "mine/f.h5", array="x")

    def test_of_a_dataset_given_as_an_array_only_the_images_are_read(self, tmp_path, monkeypatch):
        asked, read = [], h5py.Dataset.__getitem__
        with h5py.File(tmp_path / "f.h5", "w") as file:
            given = file.create_dataset("x", data=np.moveaxis(X[:, 0], 0, -1), chunks=(9, 7, 1))
            monkeypatch.setattr(
                h5py.Dataset, "__getitem__", lambda *args: asked.append(args[1]) or read(*args)
            )
            corpus = dnmf.ingest(given, tmp_path / "c", axis=("2",), block_rows=2)
        assert (corpus.images(slice(None)) == X[:, 0]).all()
        assert (slice(0, 9), slice(0, 7), slice(2, 4)) in asked

    @pytest.mark.parametrize("swmr", [False, True])
    def test_a_file_that_is_being_written(self, tmp_path, swmr):
        code = (
            "import h5py, sys; f = h5py.File(sys.argv[1], 'w', libver='latest'); "
            f"f.create_dataset('x', (3, 4, 5), 'u1'); {'f.swmr_mode = True; ' * swmr}f.flush(); "
            "print('open', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "w.h5")]
        with Popen(command, stdin=PIPE, stdout=PIPE) as writer:
            assert writer.stdout.readline() == b"open\n"
            with pytest.raises(IngestError, match=r"w\.h5: a program has opened it to write"):
                opened(tmp_path / "w.h5")
            writer.stdin.close()

    def test_filters_of_hdf5plugin(self, tmp_path):
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file.create_dataset("x", data=X[:, 0], chunks=(1, 9, 7), **hdf5plugin.Bitshuffle())
        corpus = dnmf.ingest(tmp_path / "f.h5", tmp_path / "c")
        assert (corpus.images(slice(None)) == X[:, 0]).all()

    def test_what_is_damaged_or_missing(self, tmp_path, monkeypatch):
        (tmp_path / "f.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
        with pytest.raises(IngestError, match=r"f\.h5 cannot be read"):
            opened(tmp_path / "f.h5")
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(IngestError, match=r"pip install 'dnmf\[hdf5\]'"):
            opened(tmp_path / "f.h5")
