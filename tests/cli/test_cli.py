"""Every command on real data, and every refusal in one line with status 1."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec

import click
import numpy as np
import pytest
import zarr
from command_line import run
from PIL import Image
from reference import loss

import dnmf
from dnmf.cli.main import main
from dnmf.cli.progress import format_error


@pytest.fixture(scope="module")
def fitted(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "digits.model"
    run("fit", corpus.path, path, "-k", 8)
    return path


def test_ingest_and_info(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(5):
        Image.new("RGB", (20 + i, 10), (i, 100, 200)).save(tmp_path / f"in/{i}.png")
    path = tmp_path / "c.zarr"
    result = run("ingest", tmp_path / "in", path, "--size", "4x6", "--color", "gray")
    assert "5 images of 4 x 6 uint8" in result.stdout
    assert "5 of 5 images" in result.stderr
    facts = json.loads(run("info", path, "--json").stdout)
    assert facts["kind"] == "corpus"
    assert facts["images"] == 5
    assert facts["image_shape"] == [4, 6]
    assert facts["bytes"] == 120
    plain = run("info", path).stdout
    assert "image shape   4 x 6" in plain


def test_the_codec_is_said_and_shown(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60, dtype=np.uint16).reshape(5, 3, 4))
    for codec, given in (("lz4-bitshuffle", []), ("zstd", ["--codec", "zstd"])):
        path = tmp_path / codec
        facts = json.loads(run("ingest", tmp_path / "x.npy", path, *given, "--json").stdout)
        assert facts["codec"] == json.loads(run("info", path, "--json").stdout)["codec"] == codec
        assert re.search(rf"^codec +{codec}$", run("info", path).stdout, re.MULTILINE)
    wrong = run("ingest", tmp_path / "x.npy", tmp_path / "c", "--codec", "gzip", status=2).stderr
    assert "'--codec': 'gzip' is not one of 'lz4', 'lz4-shuffle', 'lz4-bitshuffle'" in wrong


def test_fit_logs_a_line_per_pass_and_ends_with_the_error(corpus, tmp_path):
    result = run("fit", corpus.path, tmp_path / "m", "-k", 5, "--tol", 0, "--max-iter", 4)
    lines = [line for line in result.stderr.splitlines() if " pass " in line]
    assert len(lines) == 4
    assert "images/s" in lines[2]
    assert "change" in lines[2]
    assert "left" in lines[2]
    assert "done" in lines[3]
    assert lines[0][:2] == "20", "a log line begins with its date"
    model = dnmf.load(tmp_path / "m")
    assert f"error {format_error(model.reconstruction_err_)}" in result.stdout
    assert "after 4 passes, stopped by --max-iter" in result.stdout


def test_fit_json_is_one_object(corpus, tmp_path):
    facts = json.loads(run("fit", corpus.path, tmp_path / "m", "-k", 5, "--json").stdout)
    model = dnmf.load(tmp_path / "m")
    assert facts["error"] == model.reconstruction_err_
    assert facts["stop_reason"] == "converged"
    assert facts["passes"] == model.n_iter_
    assert 0 < facts["relative_error"] < 1
    assert facts["seconds"] > 0
    weights = zarr.open_array(facts["weights"], mode="r")
    assert weights.shape == (700, 5)


def test_the_same_command_again_changes_nothing(corpus, fitted):
    before = {file: file.read_bytes() for file in fitted.rglob("*") if file.is_file()}
    again = run("fit", corpus.path, fitted, "-k", 8)
    assert "converged" in again.stdout
    assert "continuing from its last pass" in again.stderr
    assert {file: file.read_bytes() for file in fitted.rglob("*") if file.is_file()} == before


def test_force_starts_afresh(corpus, tmp_path):
    run("fit", corpus.path, tmp_path / "m", "-k", 3)
    run("fit", corpus.path, tmp_path / "m", "-k", 4, status=1)
    run("fit", corpus.path, tmp_path / "m", "-k", 4, "--force")
    assert dnmf.load(tmp_path / "m").n_components_ == 4


def test_bad_parameters_keep_the_old_model(corpus, tmp_path):
    run("fit", corpus.path, tmp_path / "m", "-k", 3)
    run("fit", corpus.path, tmp_path / "m", "-k", 0, "--force", status=2)
    assert dnmf.load(tmp_path / "m").n_components_ == 3


def test_several_starts_of_a_fit(corpus, tmp_path):
    result = run("fit", corpus.path, tmp_path / "m", "-k", 4, "--n-init", 2, "--tol", 0.01)
    assert "error" in result.stdout
    assert dnmf.load(tmp_path / "m").n_init == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_transform(corpus, fitted, tmp_path, digits):
    assert (
        "700 images, 8 components" in run("transform", fitted, corpus.path, tmp_path / "w").output
    )
    W = zarr.open_array(tmp_path / "w/weights", mode="r")
    assert W.chunks == (128, 8)
    assert json.loads(run("info", tmp_path / "w", "--json").stdout)["kind"] == "weights"
    expected = dnmf.load(fitted).transform(digits)
    np.testing.assert_allclose(W[:], expected, rtol=1e-3, atol=1e-2)


def test_reconstruct(corpus, fitted, tmp_path, digits):
    run("reconstruct", fitted, corpus.path, tmp_path / "r.zarr")
    again = dnmf.open_corpus(tmp_path / "r.zarr")
    assert again.image_shape == (28, 28)
    assert again.dtype == np.float32
    assert again.ids == corpus.ids
    Y = again.images(slice(None)).reshape(700, 784)
    model = dnmf.load(fitted)
    assert 0.5 * ((digits - Y.astype(float)) ** 2).sum() == pytest.approx(
        loss(digits, model.transform(digits), model.components_), rel=1e-5
    )


def test_reconstruct_png(corpus, fitted, tmp_path):
    run("reconstruct", fitted, corpus.path, "--png", tmp_path / "p", "--rows", "3:7")
    files = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert files == [f"{i:06d}.png" for i in range(3, 7)]
    with Image.open(tmp_path / "p/000005.png") as image:
        found = np.asarray(image)
    model = dnmf.load(fitted)
    W = model.transform(corpus.images([5]).reshape(1, -1))
    expected = np.clip(np.rint(model.inverse_transform(W)), 0, 255).reshape(28, 28)
    assert np.abs(found - expected).max() <= 1
    run("reconstruct", fitted, corpus.path, "--png", tmp_path / "p", status=1)
    run("reconstruct", fitted, corpus.path, "--png", tmp_path / "p", "--force")


def test_plot(corpus, fitted, tmp_path):
    output = run("plot", fitted, "--corpus", corpus.path, "--out", tmp_path / "p").stdout
    assert len(output.splitlines()) == 3
    assert all(os.path.getsize(line) > 5000 for line in output.splitlines())


def test_fit_on_two_processes_has_the_bits_of_threads(corpus, tmp_path):
    run("fit", corpus.path, tmp_path / "a", "-k", 5)
    result = run(
        "fit", corpus.path, tmp_path / "b", "-k", 5, "--workers", 2, "--memory-limit", "2GB"
    )
    what = "dashboard at http://127.0.0.1:" if find_spec("bokeh") else "without a dashboard, which"
    assert f"2 worker processes on this machine, {what}" in result.stderr
    a, b = dnmf.load(tmp_path / "a"), dnmf.load(tmp_path / "b")
    assert (a.components_ == b.components_).all()


def test_a_given_scheduler(corpus, tmp_path, local_cluster):
    address = local_cluster.scheduler_address
    run("fit", corpus.path, tmp_path / "a", "-k", 3, "--scheduler", address)
    (tmp_path / "s.json").write_text(json.dumps({"address": address}))
    result = run(
        "fit", corpus.path, tmp_path / "b", "-k", 3, "--scheduler-file", tmp_path / "s.json"
    )
    assert f"the cluster at {address}" in result.stderr
    a, b = dnmf.load(tmp_path / "a"), dnmf.load(tmp_path / "b")
    assert (a.components_ == b.components_).all()


def test_the_scheduler_of_the_environment(corpus, tmp_path, local_cluster, monkeypatch):
    """It is used, as by Dask; what is typed wins; help and an error name the variable."""
    address, used = local_cluster.scheduler_address, []
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    fit = ("fit", corpus.path, tmp_path / "m", "-k", 3, "--max-iter", 1)
    assert f"the cluster at {address}" in run(*fit).stderr

    @contextmanager
    def cluster(**where):
        used.append({name: value for name, value in where.items() if value is not None})
        yield "nothing"

    monkeypatch.setattr("dnmf.engine.client.cluster", cluster)
    given = {"--workers": 1, "--scheduler": "tcp://other:1", "--scheduler-file": "s.json"}
    for flag, value in given.items():
        run("verify", corpus.path, flag, value)
        assert used.pop() == {flag.strip("-").replace("-", "_"): value}
    run("verify", corpus.path)
    assert used.pop() == {"scheduler": address}
    assert "DASK_SCHEDULER_ADDRESS" in run("fit", "--help").stdout


@pytest.mark.slow
def test_demo(tmp_path):
    output = run("demo", "--out", tmp_path / "demo").stdout
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {
        "digits.zarr",
        "digits.model",
        "weights.zarr",
        "reconstructed.zarr",
        "components.png",
        "loss.png",
        "reconstructions.png",
        "report.html",
    }
    assert all(name in output for name in names)
    assert "try your own" in output
    assert dnmf.load(tmp_path / "demo/digits.model").reconstruction_err_ < 92_500
    run("demo", "--out", tmp_path / "demo", status=1)


class TestRefusals:
    """Status 1, one line on stderr that says what to do, and nothing lost."""

    def refused(self, *arguments, message):
        result = run(*arguments, status=1)
        assert result.stdout == ""
        errors = [line for line in result.stderr.splitlines() if not line.startswith("20")]
        assert len(errors) == 1
        assert errors[0].startswith("Error: ")
        assert message in errors[0]

    def test_not_a_corpus(self, tmp_path):
        (tmp_path / "notes").touch()
        for command in (["fit", tmp_path, "m", "-k", 2], ["info", tmp_path]):
            self.refused(*command, message="is a folder that dnmf has not written")

    def test_not_a_model(self, corpus, tmp_path):
        self.refused("plot", corpus.path, "--out", tmp_path / "p", message="MODEL must be a model")
        self.refused("transform", tmp_path / "x", corpus.path, "w", message="dnmf fit CORPUS")

    def test_not_images(self, tmp_path):
        (tmp_path / "a.png").write_text("hello")
        self.refused("ingest", tmp_path, tmp_path / "c", message="it is text, not one of PNG")

    def test_mixed_sizes(self, tmp_path):
        for i in (3, 4):
            Image.new("L", (i, i)).save(tmp_path / f"{i}.png")
        self.refused("ingest", tmp_path, tmp_path / "c", message="--size HxW")
        assert not (tmp_path / "c").exists()

    def test_empty_folder(self, tmp_path):
        self.refused("ingest", tmp_path, tmp_path / "c", message="no images found")

    def test_existing_output(self, corpus, fitted, tmp_path):
        existing = tmp_path / "existing"
        existing.write_text("precious")
        self.refused("transform", fitted, corpus.path, existing, message="already exists")
        self.refused("reconstruct", fitted, corpus.path, existing, message="already exists")
        self.refused(
            "fit", corpus.path, existing, "-k", 2, "--force", message="not written by dnmf"
        )
        assert existing.read_text() == "precious"

    def test_another_size_at_transform(self, fitted, tmp_path):
        np.save(tmp_path / "x.npy", np.ones((5, 4, 4), "u1"))
        other = dnmf.ingest(tmp_path / "x.npy", tmp_path / "c")
        for out in (["transform", tmp_path / "w"], ["reconstruct", tmp_path / "r"]):
            self.refused(out[0], fitted, other.path, out[1], message="fitted on 784")
            assert not out[1].exists()
        self.refused(
            "reconstruct", fitted, other.path, "--png", tmp_path / "p", message="fitted on 784"
        )

    def test_rows_beyond_the_end(self, fitted, corpus, tmp_path):
        line = ["reconstruct", fitted, corpus.path, "--png", tmp_path / "p", "--rows", "900:910"]
        assert "the corpus has 700" in run(*line, status=2).stderr

    def test_a_damaged_block(self, corpus, fitted, tmp_path):
        import shutil

        shutil.copytree(corpus.path, tmp_path / "c")
        (tmp_path / "c/pixels/c/1/0/0").unlink()
        message = "block 1 (images 128 to 255) is missing"
        self.refused("fit", tmp_path / "c", tmp_path / "m", "-k", 2, message=message)
        self.refused("transform", fitted, tmp_path / "c", tmp_path / "w", message=message)
        assert not (tmp_path / "w").exists()

    def test_no_cluster(self, corpus, tmp_path):
        fit = ["fit", corpus.path, tmp_path / "m", "-k", 2]
        self.refused(
            *fit, "--scheduler-file", tmp_path / "none", message="dask scheduler --scheduler-file"
        )
        (tmp_path / "s.json").write_text('{"a": 1}')
        self.refused(*fit, "--scheduler-file", tmp_path / "s.json", message="holds no scheduler")

    def test_too_many_components_for_memory(self, corpus, tmp_path):
        fit = ["fit", corpus.path, tmp_path / "m", "-k", 10**10]
        self.refused(*fit, message="TB in this process, and there are")

    def test_a_negative_seed_keeps_the_old_model(self, corpus, tmp_path):
        run("fit", corpus.path, tmp_path / "m", "-k", 3)
        run("fit", corpus.path, tmp_path / "m", "-k", 3, "--force", "--seed", -1, status=2)
        assert dnmf.load(tmp_path / "m").n_components_ == 3

    def test_force_never_replaces_the_input(self, corpus, fitted, tmp_path):
        before = corpus.fingerprint
        for command in (
            ["fit", corpus.path, corpus.path, "-k", 3, "--force"],
            ["transform", fitted, corpus.path, corpus.path, "--force"],
            ["transform", fitted, corpus.path, fitted, "--force"],
            ["reconstruct", fitted, corpus.path, corpus.path, "--force"],
        ):
            self.refused(*command, message="choose another path")
        assert dnmf.open_corpus(corpus.path).fingerprint == before
        assert dnmf.load(fitted).n_components_ == 8

    def test_a_picture_of_another_corpus(self, fitted, tmp_path):
        np.save(tmp_path / "x.npy", np.ones((5, 4, 4), "u1"))
        other = dnmf.ingest(tmp_path / "x.npy", tmp_path / "c")
        plot = ["plot", fitted, "--corpus", other.path, "--out", tmp_path / "p"]
        self.refused(*plot, message="fitted on 784")

    def test_nothing_there(self, tmp_path):
        self.refused(
            "info",
            tmp_path / "nothing",
            message="nothing does not exist; PATH must be what dnmf has",
        )

    @pytest.mark.parametrize(
        "arguments",
        [
            ["fit"],
            ["ingest"],
            ["ingest", "x"],
            ["ingest", "a", "b", "--size", "9"],
            ["plant"],
            ["info"],
            ["reconstruct", "m", "c", "o", "--rows", "0:2"],
            ["reconstruct", "m", "c"],
        ],
    )
    def test_wrong_usage_is_status_2(self, arguments):
        assert "Usage:" in run(*arguments, status=2).stderr


def test_a_dead_scheduler_is_named(corpus, tmp_path):
    from dask import config

    with config.set({"distributed.comm.timeouts.connect": "200ms"}):
        result = run(
            *["fit", corpus.path, tmp_path / "m", "-k", 2, "--scheduler", "tcp://127.0.0.1:9"],
            status=1,
        )
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in result.stderr
    assert "DASK_SCHEDULER_ADDRESS" not in result.stderr


def test_a_dead_scheduler_of_the_environment_is_named(corpus, tmp_path, monkeypatch):
    from dask import config

    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    with config.set({"distributed.comm.timeouts.connect": "200ms"}):
        result = run("fit", corpus.path, tmp_path / "m", "-k", 2, status=1)
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in result.stderr
    assert "or unset DASK_SCHEDULER_ADDRESS" in result.stderr


def test_every_command_has_help():
    assert "dnmf demo" in run("--help").stdout
    for name, command in main.commands.items():
        text = run(name, "--help").stdout
        assert command.help.split(".")[0][:60] in " ".join(text.split())
        assert f"Example:\n    dnmf {name} " in text
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.name}"


HEAVY = ["numpy", "sklearn", "numba", "dask", "zarr", "matplotlib", "distributed", "PIL", "fsspec"]


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("--help", []),
        ("fit --help", []),
        ("fit nothing m -k 3", []),
        ("fit . m -k 3", []),
        ("fit nothing m -k 0", []),
        ("fit nothing m -k 3 --tol nan", []),
        ("fit", []),
        ("fut", []),
        ("rank nothing out -k 12-4", []),
        ("transform m c w --json", []),
        ("plot m --out p", []),
        ("info nothing", []),
        ("ingest nothing c", []),
        ("ingest . c/d/e", ["numpy", "fsspec"]),
        ("fit nothing m -k 3 --workers 1000", ["dask"]),
    ],
)
def test_help_and_errors_need_no_heavy_imports(line, allowed):
    script = (
        "import sys, dnmf, dnmf.cli.main\n"
        f"try: dnmf.cli.main.main({line.split()})\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = json.loads(output.stdout.splitlines()[-1].removeprefix("LOADED ").replace("'", '"'))
    assert set(loaded) <= set(allowed)


def test_runs_as_a_module():
    output = subprocess.run(
        [sys.executable, "-m", "dnmf", "--version"], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == f"dnmf, version {dnmf.__version__}"


class TestObjectives:
    def test_losses_by_name_and_number(self, corpus, tmp_path):
        for name, named in (("kull", "kullback-leibler"), ("1.5", 1.5), ("2", "frobenius")):
            model = str(tmp_path / name)
            run("fit", corpus.path, model, "-k", "3", "--loss", name, "--tol", "0.01")
            facts = json.loads(run("info", model, "--json").stdout)
            assert facts["loss"] == named
            assert (facts["relative_error"] is None) == (named != "frobenius")
            run("plot", model, "--out", str(tmp_path / f"{name}-pictures"))

    def test_missing_pixels(self, tmp_path):
        images = np.random.default_rng(0).random((40, 6, 5)).astype("f4")
        images[::3, 2, 2] = np.nan
        corpus = dnmf.ingest(images, tmp_path / "c.zarr", nan="keep")
        line = [corpus.path, "-k", 2, "--max-iter", 3]
        message = run("fit", line[0], tmp_path / "m", *line[1:], status=1).stderr
        assert "nan" in message.lower()
        run("fit", line[0], tmp_path / "m", *line[1:], "--missing", "ignore", "--force")
        model = dnmf.load(tmp_path / "m")
        assert model.missing == "ignore"
        run("transform", tmp_path / "m", corpus.path, tmp_path / "w")
        assert np.isfinite(np.asarray(dnmf.open_weights(tmp_path / "w").to_dask())).all()
        run("plan", corpus.path, "-k", 2, "--missing", "ignore", "--no-trial")

    def test_an_unknown_loss(self, corpus, tmp_path):
        done = run("fit", corpus.path, str(tmp_path / "m"), "-k", "3", "--loss", "spam", status=2)
        assert "'spam' is no loss; take one of frobenius, kullback-leibler" in done.stderr

    def test_a_mask_penalties_and_a_start(self, corpus, tmp_path):
        mask = np.zeros((700, 784), bool)
        mask[:, 300:400] = True
        path, model = str(tmp_path / "mask.zarr"), str(tmp_path / "model")
        zarr.create_array(path, data=mask, chunks=(128, 784))
        line = ["fit", corpus.path, model, "-k", "3", "--mask", path, "--init", "nndsvda"]
        line += ["--alpha-w", "0.1", "--l1-ratio", "0.5", "--tol", "0.01"]
        run(*line)
        run(*line)  # again: it is finished
        facts = json.loads(run("info", model, "--json").stdout)
        assert (facts["alpha_W"], facts["init"]) == (0.1, "nndsvda")
        weights = str(tmp_path / "weights")
        run("transform", model, corpus.path, weights, "--mask", path)
        expected = dnmf.load(model).transform(corpus, mask).compute()
        assert (zarr.open_array(f"{weights}/weights", mode="r")[:] == expected).all()
        other = ["--init", "nndsvda", "--alpha-w", "0.1", "--l1-ratio", "0.5"]
        done = run(*line[:5], *other, status=1)
        assert "mask was" in done.stderr
        assert facts["mask"] == "yes"

    def test_invalid_masks(self, corpus, tmp_path):
        zarr.create_array(str(tmp_path / "small"), data=np.zeros((7, 784), bool))
        zarr.create_array(str(tmp_path / "int"), data=np.zeros((700, 784), int))
        for name, message in (
            ("small", "holds bool of shape (7, 784); a mask of this corpus is bool of shape (700"),
            ("int", "holds int64 of shape (700, 784)"),
            ("nothing", "nothing does not exist"),
        ):
            line = ["fit", corpus.path, str(tmp_path / "m"), "-k", "3"]
            done = run(*line, "--mask", str(tmp_path / name), status=1)
            assert message in " ".join(done.stderr.split())
            assert not (tmp_path / "m").exists()
