"""Components as files that other programs open, and nobody else's files replaced."""

from __future__ import annotations

import io
import json
import os
import sys

import numpy as np
import pytest
import tifffile
import zarr
from command_line import run
from PIL import Image

import dnmf
from dnmf.errors import DataError, OutputExistsError, ParameterError
from dnmf.io.components import write_components

RNG = np.random.default_rng(0)


def model_of(shape, d=3):
    model = dnmf.NMF()
    model.components_ = RNG.random((d, int(np.prod(shape)))) * np.arange(1, d + 1)[:, None]
    model.image_shape_ = shape
    return model


def images_of(model):
    return model.components_.reshape(-1, *model.image_shape_).astype(np.float32)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
@pytest.mark.parametrize("scale", ["each", "common"])
def test_png(tmp_path, shape, scale):
    model = model_of(shape)
    names = write_components(model, tmp_path / "p", scale=scale)
    assert names == [f"component-{j:03d}.png" for j in range(3)]
    images = images_of(model)
    tops = images.reshape(3, -1).max(axis=1) if scale == "each" else [images.max()] * 3
    for name, image, top in zip(names, images, tops, strict=True):
        with Image.open(tmp_path / "p" / name) as picture:
            found = np.asarray(picture).reshape(shape)
        assert np.abs(found / 255 - image / top).max() <= 0.51 / 255
    record = json.loads((tmp_path / "p/zarr.json").read_text())["attributes"]["dnmf"]
    assert record["white"] == pytest.approx(tops, rel=1e-6)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_tiff_has_the_numbers(tmp_path, shape):
    model = model_of(shape)
    names = write_components(model, tmp_path / "t", file_format="tiff")
    for name, image in zip(names, images_of(model), strict=True):
        with tifffile.TiffFile(tmp_path / "t" / name) as file:
            found, axes = file.asarray(), file.series[0].axes
        assert found.dtype == np.float32
        assert axes == {2: "YX", 3: "YXS" if shape[-1] == 3 else "CYX"}[found.ndim]
        expected = np.moveaxis(image, 2, 0) if axes == "CYX" else image
        assert (found == expected.reshape(found.shape)).all()


def test_tiff_without_tifffile(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    model = model_of((5, 7))
    write_components(model, tmp_path / "t", file_format="tiff")
    with Image.open(tmp_path / "t/component-002.tiff") as picture:
        assert (np.asarray(picture) == images_of(model)[2]).all()
    with pytest.raises(DataError, match=r"pip install 'dnmf\[tiff\]'"):
        write_components(model_of((5, 7, 3)), tmp_path / "u", file_format="tiff")
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2)])
def test_ome_zarr(tmp_path, shape):
    """... by what the specification of 0.5 says of a multiscale image."""
    model = model_of(shape)
    write_components(model, tmp_path / "o.zarr", file_format="ome-zarr")
    group = zarr.open_group(tmp_path / "o.zarr", mode="r")
    ome = dict(group.attrs)["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert [(axis["name"], axis["type"]) for axis in image["axes"]] == [
        ("c", "channel"),
        ("y", "space"),
        ("x", "space"),
    ]
    (dataset,) = image["datasets"]
    assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [1, 1, 1]}]
    array = group[dataset["path"]]
    assert array.metadata.dimension_names == ("c", "y", "x")
    images = images_of(model)
    expected = images if images.ndim == 3 else np.moveaxis(images, 3, 1).reshape(-1, 5, 7)
    assert (array[:] == expected).all()
    assert len(ome["omero"]["channels"]) == len(expected)
    assert ome["omero"]["channels"][0]["window"]["end"] == expected[0].max()


def test_npy(tmp_path):
    for shape in ((5, 7), (11,), (5, 7, 3)):
        model = model_of(shape)
        write_components(model, tmp_path / str(shape), file_format="npy")
        assert (np.load(tmp_path / str(shape) / "components.npy") == images_of(model)).all()


@pytest.mark.parametrize("names", [None, ["400.5", "401", "x,y"]])
def test_spectra(tmp_path, names):
    import pandas as pd

    model = model_of((3,), d=2)
    if names is not None:
        model.feature_names_in_ = np.array(names, dtype=object)
    assert write_components(model, tmp_path / "s") == ["spectra.csv"]
    table = pd.read_csv(tmp_path / "s/spectra.csv")
    assert list(table.columns) == ["pixel", "component-000", "component-001"]
    assert list(map(str, table["pixel"])) == (names or ["0", "1", "2"])
    assert pytest.approx(model.components_, rel=1e-6) == table.iloc[:, 1:].to_numpy().T


def test_spectra_over_wavelengths(tmp_path):
    import pandas as pd
    import xarray as xr

    wavelengths = np.linspace(400, 700, 16)
    cube = xr.DataArray(RNG.random((6, 5, 16)), dims=["y", "x", "nm"], coords={"nm": wavelengths})
    corpus = dnmf.ingest(cube, tmp_path / "c.zarr", axis=("y", "x"))
    dnmf.NMF(2, random_state=0, tol=0.1).fit(corpus).save(tmp_path / "m")
    run("components", tmp_path / "m", "--corpus", corpus.path, "--out", tmp_path / "s")
    table = pd.read_csv(tmp_path / "s/spectra.csv")
    assert list(table["nm"]) == list(wavelengths)
    found = table.iloc[:, 1:].to_numpy(np.float32).T
    assert (found == dnmf.load(tmp_path / "m").components_.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((9,), {"file_format": "png"}, "no height and width, as png needs: choose --format csv"),
        ((9,), {"file_format": "ome-zarr"}, "as ome-zarr needs"),
        ((3, 3), {"file_format": "csv"}, "CSV is for spectra"),
        ((3, 3, 5), {}, "PNG has 1 or 3: choose --format tiff"),
        ((3, 3), {"file_format": "jpg"}, "format is 'jpg'; it must be one of png, tiff"),
        ((3, 3), {"scale": "all"}, "scale is 'all'"),
    ],
)
def test_refusals_leave_nothing(tmp_path, shape, options, message):
    with pytest.raises((DataError, ParameterError), match=message):
        write_components(model_of(shape), tmp_path / "p", **options)
    assert os.listdir(tmp_path) == []


def test_empty_components_are_black(tmp_path):
    model = model_of((5, 7))
    model.components_[1] = 0
    write_components(model, tmp_path / "p")
    with Image.open(tmp_path / "p/component-001.png") as picture:
        assert not np.asarray(picture).any()


@pytest.mark.parametrize("place", ["{}", "memory:/{}"])
def test_a_folder_is_replaced_as_a_whole_by_force_alone(tmp_path, place):
    from dnmf.storage.store import ObjectStore

    path = f"{place.format(tmp_path)}/p"
    write_components(model_of((4, 4), d=5), path)
    with pytest.raises(OutputExistsError, match="pass --force"):
        write_components(model_of((4, 4)), path)
    write_components(model_of((4, 4)), path, file_format="tiff", force=True)
    names = [f"component-{j:03d}.tiff" for j in range(3)]
    assert sorted(ObjectStore(path).list_keys()) == [*names, "zarr.json"]
    with tifffile.TiffFile(io.BytesIO(ObjectStore(path).get(names[0], 10**6))) as file:
        assert file.asarray().shape == (4, 4)
    write_components(model_of((4, 4)), path, file_format="ome-zarr", force=True)
    ObjectStore(path).set("component-000-mine.png", b"precious")
    with pytest.raises(OutputExistsError, match=r"component-000-mine\.png, which dnmf did not"):
        write_components(model_of((4, 4)), path, force=True)


def test_a_folder_of_pictures_stays(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p/component-000.png").write_bytes(b"precious")
    for force in (False, True):
        with pytest.raises(OutputExistsError, match="not written by dnmf"):
            write_components(model_of((4, 4)), tmp_path / "p", force=force)
    assert os.listdir(tmp_path / "p") == ["component-000.png"]


def test_the_command(corpus, tmp_path):
    model = tmp_path / "m"
    dnmf.NMF(4, random_state=0, tol=0.5).fit(corpus).save(model)
    line = ["components", model, "--out", tmp_path / "p"]
    assert "4 components in component-000.png ..." in run(*line).stdout
    facts = json.loads(run("info", tmp_path / "p", "--json").stdout)
    assert facts["kind"] == "components"
    assert facts["image_shape"] == [28, 28]
    assert "pass --force" in run(*line, status=1).stderr
    printed = json.loads(run(*line, "--force", "--format", "ome-zarr", "--json").stdout)
    assert printed["files"] == ["0"]
    assert zarr.open_array(tmp_path / "p/0", mode="r").shape == (4, 28, 28)
    assert "CORPUS" not in run("components", corpus.path, "--out", tmp_path / "q", status=1).stdout
