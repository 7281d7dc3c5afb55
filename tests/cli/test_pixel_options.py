"""Options of images become the fields of `Choices`."""

from __future__ import annotations

import json

import click
import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner

import dnmf
from dnmf.cli.main import main
from dnmf.cli.pixel_options import choice_options
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.prepare import prepare


def run(*arguments):
    """Return what a command gets, or the error that it prints."""
    found = {}

    @click.command()
    @click.option("--other")
    @choice_options
    def command(**given):
        assert given.pop("other") is None
        found.update(given)

    done = CliRunner().invoke(command, arguments)
    return done.output.splitlines()[-1] if done.exit_code else found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("--array /x/y --level 2", {"array": "/x/y", "level": 2}),
        ("--axis t,z --channel DAPI", {"axis": ("t", "z"), "channel": "DAPI"}),
        ("--crop 64x32", {"crop": (-1, -1, 64, 32)}),
        ("--crop 64x32+0+7", {"crop": (0, 7, 64, 32)}),
        ("--patches 64x64", {"patches": (64, 64, 64)}),
        ("--patches 64x32:16", {"patches": (64, 32, 16)}),
        ("--alpha white --color gray", {"alpha": "white", "color": "gray"}),
        ("--size 64x48 --pad 64x64", {"size": (64, 48), "pad": (64, 64)}),
        ("--scale 0.5 --clip --dtype uint8", {"scale": 0.5, "clip": True, "dtype": "uint8"}),
        ("--nan keep", {"nan": "keep"}),
    ],
)
def test_what_is_given_arrives(arguments, expected):
    found = run(*arguments.split())
    assert found == expected
    assert Choices(**found).as_dict().keys() == expected.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--crop 64", "is not a size; write height x width"),
        ("--crop 64x64+10", "like 64x64 for the middle, or 64x64+10+20"),
        ("--crop 64x64+-1+2", "64x64+10+20 from row 10"),
        ("--patches 64x32", "like 64x32:32"),
        ("--patches 64x64:0", "has no distance from one patch to the next"),
        ("--patches 64x64:", "has no distance from one patch to the next"),
        ("--scale 0", "Invalid value for '--scale'"),
        ("--scale nan", "Invalid value for '--scale'"),
        ("--dtype int8", "'uint8', 'uint16', 'uint32', 'float32', 'float64'"),
        ("--level -1", "Invalid value for '--level'"),
        ("--alpha gray", "'refuse', 'drop', 'white', 'black'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    assert message in run(*arguments.split())


def test_what_was_done_is_in_the_corpus_and_shown(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    path = str(tmp_path / "c")
    asked = (
        "--alpha white --color gray --crop 20x20 --size 5x5 --pad 8x8 --scale 0.004 --dtype uint8"
    )
    arguments = ["ingest", str(tmp_path / "a.png"), path, *asked.split(), "--json"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    corpus = dnmf.open_corpus(path)
    raw, images = pixels[None, :, 5:25], corpus.to_dask().compute().reshape(1, 8, 8)
    done = Choices(alpha="white", color="gray", size=(5, 5), pad=(8, 8), scale=0.004, dtype="uint8")
    assert (images == prepare(raw, "rgb+alpha", done)).all()
    facts = json.loads(CliRunner().invoke(main, ["info", path, "--json"]).stdout)
    assert facts["choices"] == {**done.as_dict(), "crop": [-1, -1, 20, 20]}
    text = CliRunner().invoke(main, ["info", path]).stdout
    assert "crop=(-1, -1, 20, 20), alpha='white', color='gray', size=(5, 5)" in text


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"size": 64}, r"size is 64; it must be \(height, width\)"),
        ({"size": (64, 0)}, "must be at least"),
        ({"pad": (64, 64.0)}, r"must be \(height, width\)"),
        ({"crop": (64, 64)}, r"must be \(top, left, height, width\)"),
        ({"crop": (-2, 0, 1, 1)}, "must be at least"),
        ({"patches": (64, 64)}, r"must be \(height, width, stride\)"),
        ({"patches": (64, 64, 0)}, "must be at least"),
        ({"axis": "t"}, "a tuple of names"),
        ({"level": -1}, "must be 0 or a positive integer"),
        ({"alpha": "gray"}, "'refuse', 'drop', 'white', 'black'"),
        ({"nan": "drop"}, "'refuse', 'keep'"),
    ],
)
def test_choices_in_python_are_checked_too(choices, message):
    with pytest.raises(IngestError, match=message):
        Choices(**choices)
