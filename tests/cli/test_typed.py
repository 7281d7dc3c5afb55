"""The command line as a person types it: slips are answered at once, in words of what was typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_line import run
from PIL import Image

import dnmf
from dnmf.cli.main import main
from dnmf.errors import OutputExistsError


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("typed") / "digits.model"
    run("fit", corpus.path, path, "-k", 3, "--tol", 0.01)
    return path


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(6):
        Image.new("L", (4, 3), i).save(tmp_path / f"images/f{i}.png")
    return tmp_path / "images"


def error_of(*line, status=1):
    """Run a line that must fail, and return the message on stderr, which begins with ``Error``."""
    log = run(*line, status=status).stderr.splitlines()
    return next(text for text in log if text.startswith("Error: "))


OF_A_MODEL = ("transform", "reconstruct", "plot", "components")


class TestPaths:
    def test_swapped_arguments(self, corpus, model, tmp_path):
        new = tmp_path / "new"
        for line, first, second in (
            (["fit", model, corpus.path, "-k", 3], "CORPUS", "MODEL"),
            (["fit", new, corpus.path, "-k", 3], "CORPUS", "MODEL"),
            (["rank", model, corpus.path, "-k", "3"], "CORPUS", "OUT"),
            (["transform", corpus.path, model, new], "MODEL", "CORPUS"),
            (["reconstruct", corpus.path, model, new], "MODEL", "CORPUS"),
            (["reconstruct", corpus.path, model, "--png", new], "MODEL", "CORPUS"),
            (["plot", corpus.path, "--corpus", model, "--out", new], "MODEL", "--corpus"),
        ):
            message = error_of(*line)
            assert f"{first} is {line[1]}" in message
            assert f"and {second} is " in message
            assert message.endswith("swap the two")
        assert not new.exists()

    @pytest.mark.parametrize(
        "line",
        [
            "info {}",
            "verify {}",
            "show {}",
            "fit {} m -k 3",
            "plan {} -k 3",
            "rank {} out -k 3",
            "transform {} c w",
            "reconstruct {} c r",
            "plot {} --out p",
            "components {} --out p",
        ],
    )
    def test_a_path_that_does_not_exist_is_told_with_the_nearest_name(
        self, model, corpus, tmp_path, line
    ):
        wanted = model if line.split()[0] in OF_A_MODEL else corpus.path
        (tmp_path / "digits.zarr").symlink_to(wanted)
        (tmp_path / "digits.zar.txt").touch()
        message = error_of(*line.format(tmp_path / "digit.zarr").split())
        assert message.endswith(f"digit.zarr does not exist; did you mean {tmp_path}/digits.zarr?")

    def test_relative_paths_and_folders_above(self, corpus, tmp_path, monkeypatch):
        (tmp_path / "data").mkdir()
        (tmp_path / "data/digits.zarr").symlink_to(corpus.path)
        monkeypatch.chdir(tmp_path)
        assert error_of("info", "data/digit.zarr").endswith("did you mean data/digits.zarr?")
        message = error_of("info", "dat/digits.zarr")
        assert f"there is no folder {tmp_path}/dat; did you mean data/digits.zarr?" in message
        message = error_of("plan", "data/digits.zarr/pixels", "-k", 3)
        assert "is a part of data/digits.zarr; did you mean that?" in message
        assert error_of("info", "data").endswith("data is a folder; did you mean data/digits.zarr?")

    def test_a_folder_that_is_no_store_is_never_to_be_written_to(
        self, images, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        for line in (
            ["fit", ".", "m", "-k", 3],
            ["plan", ".", "-k", 3],
            ["rank", ".", "m", "-k", 3],
        ):
            message = error_of(*line)
            assert "a folder that dnmf has not written" in message
            assert "`dnmf ingest IMAGES NEW.zarr`" in message
        assert error_of("fit", "images", "m", "-k", 3) == (
            "Error: images holds images and is no corpus: make one of them with "
            "`dnmf ingest images NEW.zarr`, then give that"
        )
        with pytest.raises(dnmf.errors.CorpusError, match=r"`dnmf ingest SOURCE NEW\.zarr`"):
            dnmf.open_corpus(".")

    def test_sources_of_an_ingest(self, images, corpus, tmp_path):
        new = tmp_path / "new.zarr"
        assert f"`dnmf ingest {images} {new}`" in error_of("ingest", new, images)
        message = error_of("ingest", images / "f1.png", images / "f2.png")
        assert "the last argument must be the new corpus" in message
        assert f"did you mean {images}?" in error_of("ingest", f"{images}s", new)
        assert "is a corpus already" in error_of("ingest", corpus.path, new)
        assert f"`dnmf ingest {images} NEW.zarr`" in error_of("ingest", images, status=2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]

    def test_outputs(self, corpus, model, images, tmp_path):
        before = sorted(images.iterdir())
        message = "already exists and is a folder not written by dnmf"
        assert message in error_of("fit", corpus.path, images, "-k", 3, "--force")
        for line in (
            ["fit", corpus.path, tmp_path / "a/b", "-k", 3],
            ["rank", corpus.path, tmp_path / "a/b", "-k", 3],
            ["transform", model, corpus.path, tmp_path / "a/b"],
            ["reconstruct", model, corpus.path, tmp_path / "a/b"],
            ["reconstruct", model, corpus.path, "--png", tmp_path / "a/b"],
            ["plot", model, "--out", tmp_path / "a/b"],
            ["ingest", images, tmp_path / "a/b"],
            ["demo", "--out", tmp_path / "a/b"],
        ):
            assert f"there is no folder {tmp_path}/a; make that folder first" in error_of(*line)
        assert sorted(images.iterdir()) == before
        assert not (tmp_path / "a").exists()

    def test_a_mask(self, corpus, tmp_path):
        line = ["fit", corpus.path, tmp_path / "m", "-k", 3, "--mask", tmp_path / "dead.zarr"]
        assert "--mask: " in error_of(*line)


USAGE = {
    "-k 0": "fit c m -k 0",
    "-k three": "fit c m -k three",
    "--tol nan": "fit c m -k 3 --tol nan",
    "--tol -1": "fit c m -k 3 --tol -1",
    "--max-iter 0": "fit c m -k 3 --max-iter 0",
    "--seed -1": "fit c m -k 3 --seed -1",
    "--seed 4294967296": "fit c m -k 3 --seed 4294967296",
    "--n-init 0": "fit c m -k 3 --n-init 0",
    "--loss nan": "fit c m -k 3 --loss nan",
    "--alpha-w inf": "fit c m -k 3 --alpha-w inf",
    "--alpha-h -1": "fit c m -k 3 --alpha-h -1",
    "--l1-ratio 2": "fit c m -k 3 --l1-ratio 2",
    "--grace nan": "fit c m -k 3 --grace nan",
    "--checkpoint-every 0": "fit c m -k 3 --checkpoint-every 0",
    "--checkpoint-keep 0": "fit c m -k 3 --checkpoint-keep 0",
    "--resume-from 0": "fit c m -k 3 --resume-from 0",
    "--workers 1000": "fit c m -k 3 --workers 1000",
    "--workers 0": "fit c m -k 3 --workers 0",
    "--memory-limit banana": "fit c m -k 3 --workers 1 --memory-limit banana",
    "--memory-limit -5GB": "fit c m -k 3 --workers 1 --memory-limit -5GB",
    "--memory-limit 2": "fit c m -k 3 --workers 1 --memory-limit 2",
    "--memory-limit": "fit c m -k 3 --memory-limit 2GB",
    "--scheduler": "fit c m -k 3 --workers 1 --scheduler x",
    "-k 12-4": "rank c o -k 12-4",
    "--holdout 1": "rank c o -k 3 --holdout 1",
    "--holdout nan": "rank c o -k 3 --holdout nan",
    "--seeds 0": "rank c o -k 3 --seeds 0",
    "--rows 5:5": "reconstruct m c --png p --rows 5:5",
    "--rows": "reconstruct m c o --rows 0:2",
    "--size 0x4": "ingest a c --size 0x4",
    "--size 100000x100000": "ingest a c --size 100000x100000",
    "--block-rows 0": "ingest a c --block-rows 0",
    "--color sepia": "ingest a c --color sepia",
}


@pytest.mark.parametrize("flag", USAGE)
def test_bad_values_are_wrong_usage_in_the_words_of_the_flags(flag):
    message = error_of(*USAGE[flag].split(), status=2)
    assert flag.split()[0] in message


def test_another_fit_is_told_in_the_words_of_the_flags(corpus, model):
    message = error_of("fit", corpus.path, model, "-k", 4)
    assert "belongs to another fit: --components was 3, is 4" in message


def test_what_the_library_refuses_is_wrong_usage_too(corpus, tmp_path):
    line = ["fit", corpus.path, tmp_path / "m", "-k", 900, "--init", "nndsvd"]
    result = run(*line, status=2)
    assert "Usage: main fit " in result.stderr
    assert "--init" in result.stderr.splitlines()[-1]


class TestJson:
    def test_every_command_has_it_and_is_quiet_if_asked(self):
        for name, command in main.commands.items():
            flags = {flag for option in command.params for flag in option.opts}
            assert {"--json", "-q"} <= flags, name

    def test_results(self, corpus, model, images, tmp_path):
        def facts(*line):
            return json.loads(run(*line, "--json").stdout)

        found = facts("ingest", images, tmp_path / "c")
        assert (found["images"], found["order"]) == (6, "natural")
        found = facts("transform", model, corpus.path, tmp_path / "w")
        assert (found["kind"], found["components"]) == ("weights", 3)
        assert facts("reconstruct", model, corpus.path, tmp_path / "r")["images"] == 700
        png = ["--png", tmp_path / "p", "--rows", "0:2"]
        assert facts("reconstruct", model, corpus.path, *png)["files"] == 2
        found = facts("plot", model, "--out", tmp_path / "pictures")
        assert all(os.path.getsize(path) > 5000 for path in found["files"])

    @pytest.mark.parametrize(
        ("line", "status", "kind"),
        [
            ("info nothing --json", 1, "CorpusError"),
            ("plot nothing --out p --json", 1, "CheckpointError"),
            ("fit c m -k 0 --json", 2, "BadParameter"),
            ("fit --json", 2, "MissingParameter"),
            ("fat --json", 2, "NoSuchCommand"),
            ("ingest nothing c --json", 1, "IngestError"),
        ],
    )
    def test_errors(self, line, status, kind):
        result = run(*line.split(), status=status)
        found = json.loads(result.stdout)
        assert (found["status"], found["type"]) == (status, kind)
        assert found["error"] in result.stderr

    def test_bad_images(self, images, tmp_path):
        for name in ("f2.png", "f4.png"):
            (images / name).write_bytes(b"")
        found = json.loads(run("ingest", images, tmp_path / "c", "--json", status=1).stdout)
        assert [error.split(": ")[0] for error in found["errors"]] == [
            f"{images}/f2.png",
            f"{images}/f4.png",
        ]


class TestOutput:
    def test_quiet(self, corpus, tmp_path):
        result = run("fit", corpus.path, tmp_path / "m", "-k", 3, "--tol", 0.01, "-q")
        assert result.stderr == ""
        assert result.stdout.startswith(f"{tmp_path}/m: error ")
        assert error_of("info", tmp_path / "none", "-q")

    def test_a_fit_tells_from_the_start_what_it_does(self, corpus, tmp_path):
        result = run("fit", corpus.path, tmp_path / "m", "-k", 3, "--tol", 0.001)
        log = [line.split(" ", 1)[1] for line in result.stderr.splitlines()]
        assert log[0] == f"opening {corpus.path}"
        assert log[2] == "warm start: reading a sample of 700 images"
        assert log[3] == "warm start: sketch of 700 images, 3 components"

    def test_bad_images_have_a_line_each(self, images, tmp_path):
        for name in ("f2.png", "f4.png"):
            (images / name).write_bytes(b"")
        log = run("ingest", images, tmp_path / "c", status=1).stderr.splitlines()
        assert log[-4] == "Error: 2 images cannot be used:"
        assert log[-3].startswith(f"{images}/f2.png: it is empty")
        assert log[-2].startswith(f"{images}/f4.png: it is empty")
        assert log[-1].startswith(
            "of 6 images at most 1 may be left out: mend the others, or allow"
        )

    @pytest.mark.parametrize("line", [["info", "{corpus}"], ["--help"], ["info", "{model}"]])
    def test_a_broken_pipe_is_silent(self, corpus, model, line):
        words = [word.format(corpus=corpus.path, model=model) for word in line]
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "dnmf", *words]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert done.stderr == ""
        assert done.returncode == 1

    def test_errors_in_workers_are_told_once(self, corpus, tmp_path):
        import shutil

        shutil.copytree(corpus.path, tmp_path / "c")
        (tmp_path / "c/pixels/c/1/0/0").unlink()
        line = ["fit", str(tmp_path / "c"), str(tmp_path / "m"), "-k", "3", "--workers", "1", "-q"]
        done = subprocess.run([sys.executable, "-m", "dnmf", *line], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "block 1 (images 128 to 255) is missing" in done.stderr

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_is_documented_and_works(self, shell):
        text = " ".join(run("--help").stdout.split())
        assert f"_DNMF_COMPLETE={shell}_source dnmf" in text
        env = {"_DNMF_COMPLETE": f"{shell}_source"}
        from click.testing import CliRunner

        result = CliRunner().invoke(main, [], prog_name="dnmf", env=env)
        assert "_DNMF_COMPLETE" in result.output


class TestBadImages:
    def test_they_are_left_out_listed_and_counted(self, images, tmp_path):
        (images / "f2.png").write_bytes(b"")
        Image.new("L", (9, 9)).save(images / "f4.png")
        path = tmp_path / "c"
        result = run("ingest", images, path, "--max-rejects", 2, "--block-rows", 2)
        last = result.stderr.splitlines()[-1]
        assert last == f"2 images left out; {path}/rejects.jsonl says which and why"
        corpus = dnmf.open_corpus(path)
        assert corpus.ids == ["f0.png", "f1.png", "f3.png", "f5.png"]
        assert corpus.images(slice(None))[:, 0, 0].tolist() == [0, 1, 3, 5]
        rejects = [json.loads(line) for line in (path / "rejects.jsonl").read_text().splitlines()]
        assert [reject["path"] for reject in rejects] == [f"{images}/f{i}.png" for i in (2, 4)]
        assert "9 x 9 uint8, but" in rejects[1]["reason"]
        assert json.loads(run("info", path, "--json").stdout)["rejects"] == 2

    def test_on_a_cluster(self, images, tmp_path, client):
        (images / "f0.png").write_bytes(b"")
        assert dnmf.ingest(images, tmp_path / "c").n_rejects == 1

    def test_many_bad_ones_may_come_first(self, tmp_path):
        for i in range(300):
            if i < 120:
                (tmp_path / f"f{i}.png").write_bytes(b"")
            else:
                Image.new("L", (2, 2)).save(tmp_path / f"f{i}.png")
        corpus = dnmf.ingest(tmp_path, tmp_path / "c", max_rejects=0.5)
        assert (len(corpus), corpus.n_rejects) == (180, 120)

    def test_another_size_is_an_error_without_a_limit(self, images, tmp_path):
        Image.new("L", (9, 9)).save(images / "f4.png")
        message = error_of("ingest", images, tmp_path / "c")
        assert "pass --size HxW" in message
        assert not (tmp_path / "c").exists()

    @pytest.mark.parametrize("limit", ["5", "90%", "0.5%", "-1", "x"])
    def test_limits_are_typed_as_numbers_or_shares(self, images, tmp_path, limit):
        (images / "f0.png").write_bytes(b"")
        (images / "f1.png").write_bytes(b"")
        line = ("ingest", images, tmp_path / "c", f"--max-rejects={limit}")
        status = {"5": 0, "90%": 0, "0.5%": 1}.get(limit, 2)
        run(*line, status=status)
        assert (tmp_path / "c").exists() == (status == 0)


class TestOrder:
    def test_files_are_in_natural_order(self, tmp_path):
        names = ["10/a.png", "2/a.png", "f10.png", "f2.png", "f1.png", "f02.png", "F3.png", "f.png"]
        for i, name in enumerate(names):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), i).save(tmp_path / "in" / name)
        corpus = dnmf.ingest(tmp_path / "in", tmp_path / "c")
        assert corpus.ids == [
            *("2/a.png", "10/a.png", "F3.png"),
            *("f1.png", "f02.png", "f2.png", "f10.png", "f.png"),
        ]
        assert corpus.order == "natural"
        found = {name: names.index(name) for name in corpus.ids}
        assert corpus.images(slice(None))[:, 0, 0].tolist() == list(found.values())

    def test_what_has_no_files_has_no_order(self, corpus, tmp_path):
        assert corpus.order is None
        assert dnmf.ingest(np.ones((3, 2, 2), "u1"), tmp_path / "c").order is None


def test_a_picture_folder_that_is_a_file(corpus, model, tmp_path):
    (tmp_path / "p").touch()
    with pytest.raises(OutputExistsError, match="is a file"):
        dnmf.plot.write_plots(dnmf.load(model), tmp_path / "p")
