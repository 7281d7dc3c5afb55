"""FITS, DICOM and NIfTI, in files that astropy, pydicom and nibabel write or ship."""

from __future__ import annotations

import gzip
import sys
import zipfile

import nibabel
import numpy as np
import pydicom
import pytest
from astropy.io import fits
from astropy.utils.data import get_pkg_data_filename
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

import dnmf
from dnmf.errors import IngestError

RNG = np.random.default_rng(0)
CUBE = RNG.integers(0, 60_000, (6, 5, 4), dtype=np.uint16)


def ingest(tmp_path, source, **options):
    return dnmf.ingest(source, tmp_path / "c.zarr", **options)


class TestFits:
    @pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
    @pytest.mark.parametrize("name", ["a.fits", "a.fits.gz"])
    def test_a_cube(self, tmp_path, dtype, name):
        cube = (CUBE // 300).astype(dtype)
        fits.writeto(tmp_path / name, cube)
        corpus = ingest(tmp_path, tmp_path / name)
        assert (corpus.images(slice(None)) == cube).all()
        assert corpus.dtype == np.dtype(dtype)
        assert corpus.ids[2] == f"{name}:2"

    def test_scales_are_applied(self, tmp_path):
        unit = fits.ImageHDU(CUBE[0].astype("f4"))
        unit.scale("int16", bscale=2.0, bzero=1000)
        fits.HDUList([fits.PrimaryHDU(), unit]).writeto(tmp_path / "a.fits")
        corpus = ingest(tmp_path, tmp_path / "a.fits")
        assert np.abs(corpus.images(0).astype(float) - CUBE[0]).max() <= 1

    def test_a_unit_by_its_name(self, tmp_path):
        units = [fits.PrimaryHDU(), *(fits.ImageHDU(CUBE[:, i], name=f"s{i}") for i in range(3))]
        fits.HDUList(units).writeto(tmp_path / "a.fits")
        corpus = ingest(tmp_path, f"{tmp_path}/a.fits::S1")
        assert (corpus.images(0) == CUBE[:, 1]).all()
        with pytest.raises(
            IngestError, match=r"its images are 1 \(S0, 6 x 4\), 2 \(S1.*file\.fits"
        ):
            dnmf.ingest(f"{tmp_path}/a.fits::S7", tmp_path / "d")

    def test_pixels_of_a_spectral_cube_are_rows(self, tmp_path):
        unit = fits.PrimaryHDU(CUBE)
        unit.header.update(CTYPE3="WAVE", CRVAL3=500.0, CDELT3=10.0, CRPIX3=1.0)
        unit.writeto(tmp_path / "a.fits")
        corpus = ingest(tmp_path, tmp_path / "a.fits", axis=("y", "x"))
        assert corpus.shape == (20, 6)
        assert (corpus.images(slice(None)) == CUBE.reshape(6, 20).T).all()

    @pytest.mark.parametrize(("kind", "is_even"), [("WAVE", True), ("WAVE-LOG", False)])
    def test_numbers_along_an_axis(self, tmp_path, kind, is_even):
        unit = fits.PrimaryHDU(CUBE)
        unit.header.update(CTYPE3=kind, CRVAL3=500.0, CDELT3=10.0, CRPIX3=1.0)
        unit.writeto(tmp_path / "a.fits")
        corpus = ingest(tmp_path, tmp_path / "a.fits", axis=("y", "x"))
        found = {name: values.tolist() for name, values in corpus.coords.items()}
        assert found == ({"wave": [500.0, 510.0, 520.0, 530.0, 540.0, 550.0]} if is_even else {})

    def test_a_file_that_astropy_ships(self, tmp_path):
        path = get_pkg_data_filename("data/test0.fits", package="astropy.io.fits.tests")
        with fits.open(path) as units:
            expected = units[1].data.copy()
        assert (ingest(tmp_path, f"{path}::1").images(0) == expected).all()

    def test_damage(self, tmp_path):
        fits.writeto(tmp_path / "a.fits", RNG.random((9, 40, 50)).astype("f4"))
        content = (tmp_path / "a.fits").read_bytes()
        (tmp_path / "a.fits").write_bytes(content[:9000])
        with pytest.raises(IngestError, match=r"a\.fits"):
            ingest(tmp_path, tmp_path / "a.fits")


def dicom(path, pixels, kind="MONOCHROME2", **fields):
    found = pydicom.Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = generate_uid()
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    colors = pixels.ndim > 2 and pixels.shape[-1] == 3
    rows, columns = pixels.shape[-3:-1] if colors else pixels.shape[-2:]
    found.Rows, found.Columns, found.SamplesPerPixel = rows, columns, 3 if colors else 1
    if pixels.ndim - colors > 2:
        found.NumberOfFrames = len(pixels)
    if colors:
        found.PlanarConfiguration = 0
    found.PhotometricInterpretation = kind
    found.BitsAllocated = found.BitsStored = 8 * pixels.itemsize
    found.HighBit, found.PixelRepresentation = found.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in fields.items():
        setattr(found, name, value)
    found.PixelData = pixels.tobytes()
    found.save_as(path, enforce_file_format=True)
    return path


class TestDicom:
    def test_a_series(self, tmp_path):
        (tmp_path / "in").mkdir()
        for i, image in enumerate(CUBE):
            dicom(tmp_path / f"in/slice{i}.dcm", image)
        corpus = ingest(tmp_path, tmp_path / "in")
        assert (corpus.images(slice(None)) == CUBE).all()

    def test_frames(self, tmp_path):
        assert (ingest(tmp_path, dicom(tmp_path / "a.dcm", CUBE)).images(slice(None)) == CUBE).all()

    def test_colours(self, tmp_path):
        image = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)
        corpus = ingest(tmp_path, dicom(tmp_path / "a.dcm", image, "RGB"))
        assert (corpus.images(0) == image).all()

    def test_the_least_number_may_be_white(self, tmp_path):
        corpus = ingest(tmp_path, dicom(tmp_path / "a.dcm", CUBE[0], "MONOCHROME1"))
        assert (corpus.images(0) == 65535 - CUBE[0]).all()

    def test_what_is_measured(self, tmp_path):
        path = dicom(tmp_path / "a.dcm", CUBE[0], RescaleSlope="2", RescaleIntercept="-5")
        corpus = ingest(tmp_path, path, clip=True)
        assert (corpus.images(0) == np.maximum(CUBE[0].astype(int) * 2 - 5, 0)).all()

    def test_signed_numbers_of_which_the_least_is_white(self, tmp_path):
        image = (CUBE[0] // 4).astype("i2") - 9_000
        corpus = ingest(tmp_path, dicom(tmp_path / "a.dcm", image, "MONOCHROME1"), clip=True)
        assert (corpus.images(0) == np.maximum(-1 - image.astype(int), 0)).all()

    def test_large_numbers_do_not_wrap(self, tmp_path):
        image = CUBE[0].astype("u4") * 60_000
        path = dicom(tmp_path / "a.dcm", image, RescaleSlope="3", RescaleIntercept="7")
        assert (ingest(tmp_path, path).images(0) == image.astype("i8") * 3 + 7).all()

    @pytest.mark.parametrize("is_shared", [False, True])
    def test_scales_of_frames(self, tmp_path, is_shared):
        def group(slope):
            inner, outer = pydicom.Dataset(), pydicom.Dataset()
            inner.RescaleSlope, inner.RescaleIntercept = slope, 1
            outer.PixelValueTransformationSequence = [inner]
            return outer

        slopes = np.full(6, 2) if is_shared else np.arange(1, 7)
        groups = [group(int(slope)) for slope in (slopes[:1] if is_shared else slopes)]
        name = "SharedFunctionalGroupsSequence" if is_shared else "PerFrameFunctionalGroupsSequence"
        corpus = ingest(tmp_path, dicom(tmp_path / "a.dcm", CUBE, **{name: groups}))
        assert (corpus.images(slice(None)) == CUBE.astype(int) * slopes[:, None, None] + 1).all()

    @pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_palette.dcm"])
    def test_files_that_pydicom_ships(self, tmp_path, name):
        path = get_testdata_file(name, download=False)
        if path is None:
            pytest.skip(f"{name} is not in this pydicom")
        assert len(ingest(tmp_path, path, clip=True)) == 1

    def test_without_a_suffix_by_its_name(self, tmp_path):
        corpus = ingest(tmp_path, dicom(tmp_path / "IM0001", CUBE[0]))
        assert (corpus.images(0) == CUBE[0]).all()

    def test_damage(self, tmp_path):
        path = dicom(tmp_path / "a.dcm", CUBE[0])
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(IngestError, match=r"a\.dcm"):
            ingest(tmp_path, path)


class TestNifti:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_slices_of_a_volume(self, tmp_path, name):
        nibabel.Nifti1Image(CUBE.T, np.eye(4)).to_filename(tmp_path / name)
        corpus = ingest(tmp_path, tmp_path / name)
        assert (corpus.images(slice(None)) == CUBE).all()
        assert corpus.ids[3] == f"{name}:3"

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "volume"])
    def test_the_second_version_and_names_without_a_suffix(self, tmp_path, name):
        for kind in (nibabel.Nifti2Image, nibabel.Nifti1Image):
            (tmp_path / name).write_bytes(b"")
            content = kind(CUBE.T, np.eye(4)).to_bytes()
            (tmp_path / name).write_bytes(gzip.compress(content) if ".gz" in name else content)
            corpus = dnmf.ingest(tmp_path / name, tmp_path / kind.__name__)
            assert (corpus.images(slice(None)) == CUBE).all()

    def test_a_series_of_volumes(self, tmp_path):
        series = RNG.random((4, 5, 6, 3)).astype("f4")
        nibabel.Nifti1Image(series, np.eye(4)).to_filename(tmp_path / "a.nii")
        with pytest.raises(IngestError, match="--axis"):
            ingest(tmp_path, tmp_path / "a.nii")
        corpus = ingest(tmp_path, tmp_path / "a.nii", axis=("t", "z"))
        assert (corpus.images(slice(None)) == series.T.reshape(18, 5, 4)).all()
        assert corpus.ids[7] == "a.nii:t=1,z=1"

    def test_scales_are_applied(self, tmp_path):
        image = nibabel.Nifti1Image(CUBE.T.astype("i2"), np.eye(4))
        image.header.set_slope_inter(0.5, 20_000)
        image.to_filename(tmp_path / "a.nii")
        expected = nibabel.load(tmp_path / "a.nii").get_fdata().T
        assert np.allclose(ingest(tmp_path, tmp_path / "a.nii").images(slice(None)), expected)

    def test_damage(self, tmp_path):
        nibabel.Nifti1Image(CUBE.T, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
        content = (tmp_path / "a.nii.gz").read_bytes()
        (tmp_path / "a.nii.gz").write_bytes(content[:-200])
        with pytest.raises(IngestError, match=r"a\.nii\.gz cannot be read"):
            ingest(tmp_path, tmp_path / "a.nii.gz")


def test_all_of_them_in_an_archive(tmp_path):
    fits.writeto(tmp_path / "a.fits", CUBE)
    nibabel.Nifti1Image(CUBE.T, np.eye(4)).to_filename(tmp_path / "b.nii")
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress((tmp_path / "b.nii").read_bytes()))
    dicom(tmp_path / "d.dcm", CUBE)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("a.fits", "b.nii", "c.nii.gz", "d.dcm"):
            archive.write(tmp_path / name, name)
    corpus = ingest(tmp_path, tmp_path / "all.zip", block_rows=5)
    assert (corpus.images(slice(None)) == np.concatenate([CUBE] * 4)).all()


@pytest.mark.parametrize(
    ("name", "library"), [("a.fits", "astropy"), ("a.dcm", "pydicom"), ("a.nii", "nibabel")]
)
def test_a_missing_library_is_named(tmp_path, monkeypatch, name, library):
    (tmp_path / name).write_bytes(b"x")
    for module in [m for m in sys.modules if m.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(IngestError, match=rf"{library} is not .*pip install 'dnmf\[science\]'"):
        ingest(tmp_path, tmp_path / name)
