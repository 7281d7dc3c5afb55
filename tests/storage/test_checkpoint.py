"""A killed fit goes on and ends with the same bits; a model on disk is whole or refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from reference import loss
from runs import SQUARED
from sklearn.base import clone

import dnmf
from dnmf.errors import CheckpointError, DataError, OutputExistsError, ParameterError
from dnmf.numerics.statistics import SufficientStats
from dnmf.solvers import warm_start
from dnmf.solvers.warm_start import LEAST_TOL
from dnmf.storage.atomic import remove_store
from dnmf.storage.checkpoint.checkpoint import open_checkpoint, verify_checkpoint
from dnmf.storage.metadata import with_checksum

K, PASSES = 6, 8


def fit(corpus, path, **options):
    options = {"tol": 0, "max_iter": PASSES, "random_state": 0, "checkpoint": path} | options
    return dnmf.NMF(K, **options).fit(corpus)


def same(a, b):
    return (
        (a.components_ == b.components_).all()
        and (a.loss_history_ == b.loss_history_).all()
        and a.stop_reason_ == b.stop_reason_
    )


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A fit that nobody interrupted, and its weights."""
    path = tmp_path_factory.mktemp("whole") / "model"
    model = fit(corpus, path)
    return model, np.asarray(open_checkpoint(path).weights[:])


@pytest.fixture(scope="module")
def fitted_every(corpus, tmp_path_factory):
    """Fits that nobody interrupted, and their weights, by how often weights are written."""

    @cache
    def fitted(every):
        path = tmp_path_factory.mktemp("every") / "model"
        model = fit(corpus, path, checkpoint_every=every)
        return model, np.asarray(open_checkpoint(path).weights[:])

    return fitted


class StopError(Exception):
    """Stands for anything that ends a process between passes."""


def stop_after(passes):
    def on_pass(state):
        if state.n_iter == passes:
            raise StopError

    return on_pass


@pytest.mark.parametrize("every", [1, 2, 3, 50])
@pytest.mark.parametrize("passes", [1, 3, PASSES - 1])
def test_an_interrupted_fit_ends_with_the_same_bits(
    corpus, tmp_path, whole, fitted_every, passes, every
):
    path = tmp_path / "model"
    with pytest.raises(StopError):
        fit(corpus, path, on_pass=stop_after(passes), checkpoint_every=every)
    assert open_checkpoint(path).state.n_iter == passes
    resumed = fit(corpus, path, checkpoint_every=every)
    assert same(resumed, whole[0])
    other, other_weights = fitted_every(every)
    assert resumed.n_reads_ == other.n_reads_
    weights = np.asarray(open_checkpoint(path).weights[:])
    assert (weights == other_weights).all()
    if every == 1:
        assert (weights == whole[1]).all()


@pytest.mark.parametrize("every", [1, 3])
def test_a_checkpoint_is_a_complete_factorisation(corpus, tmp_path, every):
    path = tmp_path / "model"
    model = fit(corpus, path, checkpoint_every=every)
    W = np.asarray(open_checkpoint(path).weights[:])
    X = corpus.to_dask().compute()
    found = loss(X, W, model.components_)
    if every == 1:
        assert found == pytest.approx(model.loss_history_[-1], rel=1e-5)
    else:  # its weights were solved for the final H: they can only be better
        assert found <= model.loss_history_[-1] * (1 + 1e-5)
    assert model.n_reads_ == 1 + PASSES + (every == 3)


def test_the_weights_stay_with_their_H_when_a_pass_is_thrown_away(digits, tmp_path):
    X = zarr.create_array(tmp_path / "x.zarr", data=digits, chunks=(100, 784))
    path = tmp_path / "model"
    seen = []
    dnmf.NMF(5, tol=0, max_iter=60, random_state=0, checkpoint=path, on_pass=seen.append).fit(X)
    assert not all(state.accepted for state in seen), "no pass was thrown away: nothing tested"
    kept = open_checkpoint(path)
    W, H = np.asarray(kept.weights[:]), kept.state.H
    assert loss(digits, W, H) == pytest.approx(kept.state.losses[-1], rel=1e-5)


WEIGHTS = np.random.default_rng(0).random(700)
MASK = np.random.default_rng(1).random((700, 784)) < 0.2
KINDS = {
    "kullback-leibler": ({"solver": "mu", "beta_loss": "kullback-leibler"}, {}),
    "penalties": ({"alpha_W": 0.1, "l1_ratio": 0.5, "init": "nndsvda"}, {}),
    "masked": ({}, {"mask": MASK}),
    "masked and weighted": (
        {"solver": "mu", "beta_loss": "kullback-leibler", "alpha_W": 1e-3},
        {"mask": MASK, "sample_weight": WEIGHTS},
    ),
    "custom": ({"init": "custom"}, {"H": np.random.default_rng(2).random((K, 784))}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fit_goes_on_with_the_same_bits(corpus, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(warm_start, "MAX_ROUNDS", 1)  # what comes after them is tested
    options, aside = KINDS[kind]

    def run(path, **more):
        options_ = {"tol": 0, "max_iter": 5, "random_state": 0, "checkpoint": path}
        return dnmf.NMF(K, **options_ | options | more).fit(corpus, **aside)

    uninterrupted = run(tmp_path / "whole")
    with pytest.raises(StopError):
        run(tmp_path / "model", on_pass=stop_after(2))
    assert same(run(tmp_path / "model"), uninterrupted)
    weights = [np.asarray(open_checkpoint(tmp_path / m).weights[:]) for m in ("model", "whole")]
    assert (weights[0] == weights[1]).all()
    loaded = dnmf.load(tmp_path / "model")
    mask = aside.get("mask")
    expected = uninterrupted.transform(corpus, mask).compute()
    assert (loaded.transform(corpus, mask).compute() == expected).all()
    if loaded.solver == "mu":  # the weights of the last accepted pass are those of its H
        # ... solved in other company, so with other rounding, and to a tolerance.
        np.testing.assert_allclose(weights[0], expected, rtol=5e-3, atol=1e-3 * expected.max())


@pytest.mark.parametrize(
    ("options", "aside", "words"),
    [
        ({"alpha_W": 0.1}, {}, r"alpha_W was 0\.0, is 0\.1"),
        ({"solver": "mu"}, {}, "solver was cd, is mu"),
        ({"init": "nndsvd"}, {}, "init was random, is nndsvd"),
        ({"missing": "ignore"}, {}, "missing was error, is ignore"),
        ({}, {"mask": MASK}, "mask was None, is"),
        ({}, {"sample_weight": WEIGHTS}, "sample_weight was None, is"),
    ],
)
def test_another_objective_is_another_fit(corpus, tmp_path, whole, options, aside, words):
    path = tmp_path / "model"
    fit(corpus, path, max_iter=1)
    with pytest.raises(CheckpointError, match=words):
        dnmf.NMF(K, random_state=0, checkpoint=path, **options).fit(corpus, **aside)


@pytest.mark.parametrize("part", ["mask", "sample_weight"])
@pytest.mark.parametrize("kind", ["numpy", "zarr", "dask"])
def test_a_change_in_the_last_block_of_what_lies_beside_X(corpus, tmp_path, part, kind):
    def beside(name):
        A = (MASK if part == "mask" else WEIGHTS).copy()
        if name == "other":
            A[690:] = ~A[690:] if part == "mask" else 0
        if kind == "zarr":
            return zarr.create_array(tmp_path / name, data=A)
        return A if kind == "numpy" else da.from_array(A, chunks=(100, *A.shape[1:]))

    fit_ = dnmf.NMF(2, random_state=0, checkpoint=tmp_path / "model", tol=0.1).fit
    fit_(corpus, **{part: beside("first")})
    fit_(corpus, **{part: beside("same")})
    with pytest.raises(CheckpointError, match=f"{part} was"):
        fit_(corpus, **{part: beside("other")})


def test_a_start_that_came_to_nothing_is_no_obstacle(corpus, tmp_path):
    options = {"random_state": 0, "checkpoint": tmp_path / "model", "solver": "mu", "tol": 1e-2}
    with pytest.raises(DataError, match="contains zeros"):
        dnmf.NMF(2, beta_loss=0, **options).fit(corpus)
    assert dnmf.NMF(2, beta_loss=1, **options).fit(corpus).stop_reason_ == "converged"


def test_equal_parameters_are_the_same_fit(corpus, tmp_path):
    fit(corpus, tmp_path / "model", max_iter=1, alpha_W=0.5)
    same_, path = {"alpha_W": 0.5, "alpha_H": 0.5, "beta_loss": 2, "init": "random"}, "model"
    fit(corpus, tmp_path / path, max_iter=2, **same_)
    loaded = dnmf.load(tmp_path / path)
    assert (loaded.alpha_W, loaded.alpha_H, loaded.beta_loss) == (0.5, 0.5, "frobenius")


def test_other_settings_are_kept(digits, tmp_path):
    settings = {"tol": 1e-3, "max_iter": 33, "forget_factor": 0.9, "batch_size": 37}
    dnmf.NMF(2, random_state=4, **settings).fit(digits).save(tmp_path / "model")
    kept = dnmf.load(tmp_path / "model").get_params()
    assert {name: kept[name] for name in settings} == settings
    assert kept["random_state"] == 4


def test_a_stream_is_saved_and_goes_on(corpus, digits, tmp_path):
    model = dnmf.NMF(K, random_state=0, solver="mu", beta_loss=1).partial_fit(corpus)
    model.save(tmp_path / "model")
    loaded = dnmf.load(tmp_path / "model")
    assert (loaded.components_ == model.components_).all()
    assert loaded.stop_reason_ == "partial_fit"
    before = loaded.score(digits)
    assert loaded.partial_fit(digits).score(digits) > 1.02 * before  # negative: no worse than 2 %


def test_a_model_on_a_cluster_has_the_same_bits(corpus, tmp_path, whole, client):
    assert same(fit(corpus, tmp_path / "model"), whole[0])
    weights = np.asarray(open_checkpoint(tmp_path / "model").weights[:])
    assert (weights == whole[1]).all()


def start_fit(corpus, model, *more):
    command = [sys.executable, "-m", "dnmf", "fit", corpus.path, str(model), "-k", str(K)]
    return subprocess.Popen(
        [*command, "--tol", "0", "--max-iter", "150", *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would what the tests start from one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_pass(process, n):
    for line in process.stderr:
        if f"pass {n:3d} " in line:
            return
    raise AssertionError("the fit ended too early")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["threads", "processes"])
def test_kill_9_and_the_same_line_again(corpus, tmp_path, workers):
    model = tmp_path / "model"
    for n in (3, 20):
        process = start_fit(corpus, model, *workers)
        wait_for_pass(process, n)
        time.sleep(0.005 * n)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        assert 1 <= open_checkpoint(model).state.n_iter < 150
        assert dnmf.load(model).stop_reason_ == "unfinished"
    process = start_fit(corpus, model, *workers)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    expected = fit(corpus, tmp_path / "whole", max_iter=150)
    assert same(dnmf.load(model), expected)


def test_ctrl_c_says_how_to_go_on(corpus, tmp_path):
    # Far more passes than can end before the signal arrives, however busy the machine.
    process = start_fit(corpus, tmp_path / "model", "--workers", "2", "--max-iter", "100000")
    wait_for_pass(process, 2)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same line again" in log
    assert "Traceback" not in log
    assert open_checkpoint(tmp_path / "model").state.n_iter >= 1


def test_more_passes_and_a_smaller_tol_continue_a_finished_fit(corpus, tmp_path, whole):
    fit(corpus, tmp_path / "model", max_iter=3)
    assert same(fit(corpus, tmp_path / "model"), whole[0])
    rough = fit(corpus, tmp_path / "rough", tol=0.1)
    assert rough.stop_reason_ == "converged"
    assert rough.n_iter_ < PASSES
    further = fit(corpus, tmp_path / "rough")
    assert further.n_iter_ == PASSES
    assert (further.loss_history_[: rough.n_iter_] == rough.loss_history_).all()
    # A rough fit has a shorter warm-up, and another path; these two have the same.
    loose = fit(corpus, tmp_path / "loose", tol=LEAST_TOL)
    assert same(fit(corpus, tmp_path / "loose"), whole[0])
    assert loose.n_iter_ < PASSES


def objects_of(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_finished_fit_is_only_loaded(corpus, tmp_path, whole):
    fit(corpus, tmp_path / "model")
    before = objects_of(tmp_path / "model")
    assert same(fit(corpus, tmp_path / "model", on_pass=stop_after(0)), whole[0])
    assert objects_of(tmp_path / "model") == before


def test_without_a_seed_the_first_one_is_kept(corpus, tmp_path):
    with pytest.raises(StopError):
        fit(corpus, tmp_path / "model", random_state=None, on_pass=stop_after(2))
    seed = open_checkpoint(tmp_path / "model").spec.seed
    resumed = fit(corpus, tmp_path / "model", random_state=None)
    assert same(resumed, fit(corpus, tmp_path / "other", random_state=seed))


def test_everything_works_at_a_url(digits, tmp_path, whole):
    np.save(tmp_path / "x.npy", digits.reshape(-1, 28, 28))
    corpus = dnmf.ingest(tmp_path / "x.npy", "memory://digits.zarr", block_rows=128)
    with pytest.raises(OutputExistsError, match="choose another path"):
        dnmf.ingest(tmp_path / "x.npy", "memory://digits.zarr")
    with pytest.raises(StopError):
        fit(corpus, "memory://digits.model", on_pass=stop_after(3))
    assert same(fit(corpus, "memory://digits.model"), whole[0])
    assert same(dnmf.load("memory://digits.model"), whole[0])
    assert list(verify_checkpoint("memory://digits.model")) == []
    W = [open_checkpoint("memory://digits.model").read_weights(block) for block in range(6)]
    assert (np.concatenate(W) == whole[1]).all()
    remove_store("memory://digits.model", "dnmf-model")
    with pytest.raises(CheckpointError, match="nothing is there"):
        dnmf.load("memory://digits.model")
    remove_store("memory://never.there", "dnmf-model")


def test_sums_remember_what_was_written_of_all_blocks():
    one, other = (
        SufficientStats(np.ones((1, 1)), np.ones((1, 2)), np.ones(2), written=((row, 7),))
        for row in (0, 4)
    )
    assert (one + other).written == ((0, 7), (4, 7))
    assert one.scaled(0.5).written == ((0, 7),)
    columns = [SQUARED.columns(one, slice(at, at + 1)).written for at in (0, 1)]
    assert columns == [((0, 7),), ()]
    one += other
    assert one.written == ((0, 7), (4, 7))


def test_an_empty_folder_may_become_a_checkpoint(corpus, tmp_path):
    assert fit(corpus, tmp_path, max_iter=1).n_iter_ == 1
    assert open_checkpoint(tmp_path).state.n_iter == 1


def test_the_reason_on_disk_is_that_of_the_last_fit(corpus, tmp_path):
    with pytest.raises(StopError):
        fit(corpus, tmp_path / "model", on_pass=stop_after(3))
    assert dnmf.load(tmp_path / "model").stop_reason_ == "unfinished"
    fit(corpus, tmp_path / "model", max_iter=3)
    assert dnmf.load(tmp_path / "model").stop_reason_ == "max_iter"
    fit(corpus, tmp_path / "model", tol=0.5)
    assert dnmf.load(tmp_path / "model").stop_reason_ == "converged"


def test_removed_weights_are_written_again(corpus, tmp_path, whole):
    path = tmp_path / "model"
    fit(corpus, path)
    shutil.rmtree(path / open_checkpoint(path).weights_name)
    assert open_checkpoint(path).weights is None
    assert same(dnmf.load(path), whole[0])
    assert same(fit(corpus, path), whole[0])
    W, H = open_checkpoint(path).weights[:], whole[0].components_
    assert loss(corpus.to_dask().compute(), W, H) <= whole[0].loss_history_[-1] * (1 + 1e-5)


class TestAnotherFit:
    @pytest.fixture
    def path(self, corpus, tmp_path):
        fit(corpus, tmp_path / "model", max_iter=2)
        return tmp_path / "model"

    def test_other_components(self, corpus, path):
        with pytest.raises(CheckpointError, match="n_components was 6, is 7"):
            dnmf.NMF(7, random_state=0, checkpoint=path).fit(corpus)

    def test_another_seed(self, corpus, path):
        with pytest.raises(CheckpointError, match=r"seed was 0, is 1.*--force"):
            fit(corpus, path, random_state=1)

    def test_another_corpus(self, path, tmp_path, digits):
        np.save(tmp_path / "x.npy", digits[::-1].reshape(-1, 28, 28))
        other = dnmf.ingest(tmp_path / "x.npy", tmp_path / "other.zarr", block_rows=128)
        with pytest.raises(CheckpointError, match="fingerprint was"):
            fit(other, path)

    @pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
    def test_other_pixels_in_an_array_of_the_same_shape(self, tmp_path, digits, kind):
        def wrap(X, name):
            if kind == "zarr":
                return zarr.create_array(tmp_path / name, data=X, chunks=(100, 784))
            return X if kind == "numpy" else da.from_array(X, chunks=(100, -1))

        model = fit(wrap(digits, "a"), tmp_path / "model", max_iter=2)
        assert same(fit(wrap(digits, "b"), tmp_path / "model", max_iter=2), model)
        with pytest.raises(CheckpointError, match="fingerprint was"):
            fit(wrap(digits[::-1], "c"), tmp_path / "model", max_iter=2)

    def test_overwriting_fits_afresh(self, corpus, path, tmp_path):
        new = dnmf.NMF(3, tol=0, max_iter=2, random_state=1)
        alone = new.fit(corpus)
        over = clone(new).set_params(checkpoint=path).fit(corpus, overwrite=True)
        assert same(over, alone)
        assert same(dnmf.load(path), alone)
        first = clone(new).set_params(checkpoint=tmp_path / "new").fit(corpus, overwrite=True)
        assert same(first, alone), "where there is nothing to replace"

    def test_overwriting_removes_models_alone(self, corpus, path, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos/a.png").write_text("precious")
        model = dnmf.NMF(3, random_state=0, max_iter=2, tol=0)
        for place in (tmp_path / "photos", Path(corpus.path)):
            with pytest.raises(OutputExistsError, match="does not replace it"):
                clone(model).set_params(checkpoint=place).fit(corpus, overwrite=True)
        assert (tmp_path / "photos/a.png").read_text() == "precious"
        before = dnmf.load(path)
        with pytest.raises(ParameterError):
            clone(model).set_params(checkpoint=path, n_components=0).fit(corpus, overwrite=True)
        assert same(dnmf.load(path), before), "refused before anything was removed"

    @pytest.mark.parametrize("options", [{}, {"checkpoint": "m", "resume_from": 1}])
    def test_overwriting_needs_a_checkpoint_that_is_not_resumed(self, corpus, options):
        with pytest.raises(ParameterError, match="overwrite is True"):
            dnmf.NMF(3, **options).fit(corpus, overwrite=True)

    def test_something_that_is_no_model(self, corpus, tmp_path):
        (tmp_path / "notes").write_text("precious")
        with pytest.raises(CheckpointError, match="not a dnmf model"):
            fit(corpus, tmp_path / "notes")
        assert (tmp_path / "notes").read_text() == "precious"

    def test_a_corpus_is_no_model(self, corpus):
        with pytest.raises(CheckpointError, match="it is a dnmf-corpus"):
            fit(corpus, corpus.path)


def test_uneven_chunks_are_refused_before_anything_runs(digits, tmp_path):
    X = da.from_array(digits, chunks=((100, 300, 300), 784))
    with pytest.raises(DataError, match=r"rechunk\(\{0: 300\}\)"):
        fit(X, tmp_path / "model")
    assert not (tmp_path / "model").exists()


class TestDamage:
    @pytest.fixture
    def path(self, corpus, tmp_path):
        return fit(corpus, tmp_path / "model", max_iter=2).checkpoint

    def state_file(self, path, name="H"):
        return path / open_checkpoint(path).name / name / ("c.0.0" if name == "H" else "c.0")

    @pytest.mark.parametrize("name", ["H", "state"])
    @pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
    def test_in_the_state_is_named(self, path, name, damage):
        file = self.state_file(path, name)
        content = bytearray(file.read_bytes())
        if damage == "missing":
            file.unlink()
        elif damage == "flipped":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        else:
            os.truncate(file, len(content) // 2 if damage == "cut" else 0)
        with pytest.raises(CheckpointError, match=rf"pass-000002-2/{name}.*pass 1 is intact"):
            dnmf.load(path)

    def test_a_lost_block_of_weights_reads_as_nan_not_zero(self, path):
        checkpoint = open_checkpoint(path)
        (path / checkpoint.weights_name / "c.1.0").unlink()
        assert np.isnan(checkpoint.weights[128:256]).all()

    def test_a_newer_format(self, path):
        record = json.loads((path / "zarr.json").read_text())
        record["attributes"]["dnmf"]["version"] = 7
        (path / "zarr.json").write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=r"format 7.*upgrade"):
            dnmf.load(path)

    def test_a_record_cut_short(self, path):
        os.truncate(path / "zarr.json", 40)
        with pytest.raises(CheckpointError, match=r"not a dnmf model.*any other model will do"):
            dnmf.load(path)


class TestSave:
    def test_round_trip(self, corpus, digits, tmp_path):
        model = dnmf.NMF(K, random_state=0).fit(corpus)
        model.save(tmp_path / "model")
        loaded = dnmf.load(tmp_path / "model")
        assert same(loaded, model)
        assert loaded.image_shape_ == (28, 28)
        assert (loaded.transform(digits) == model.transform(digits)).all()
        assert open_checkpoint(tmp_path / "model").weights is None

    def test_not_over_something(self, digits, tmp_path):
        model = dnmf.NMF(2, max_iter=1, tol=0).fit(digits)
        model.save(tmp_path / "model")
        with pytest.raises(OutputExistsError, match="already exists"):
            model.save(tmp_path / "model")
        model.save(tmp_path / "model", force=True)

    def test_holds_no_pickle(self, digits, tmp_path):
        dnmf.NMF(2, max_iter=1, tol=0).fit(digits).save(tmp_path / "model")
        names = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
        assert names == {"zarr.json", "c.0.0", "c.0"}

    def test_nothing_there(self, tmp_path):
        with pytest.raises(CheckpointError, match="nothing is there"):
            dnmf.load(tmp_path / "nothing")

    def test_before_the_first_pass(self, corpus, tmp_path, monkeypatch):
        from dnmf.solvers import loop

        def stop(*args):
            raise StopError

        monkeypatch.setattr(loop, "run_pass", stop)
        with pytest.raises(StopError):
            fit(corpus, tmp_path / "model")
        with pytest.raises(CheckpointError, match="no finished pass"):
            dnmf.load(tmp_path / "model")
        monkeypatch.undo()
        assert fit(corpus, tmp_path / "model").n_iter_ == PASSES


def test_plain_zarr_and_xarray_read_components_and_weights(corpus, tmp_path):
    import xarray as xr
    import zarr

    path = fit(corpus, tmp_path / "m").checkpoint
    found = open_checkpoint(path)
    passes = zarr.open_group(path, mode="r")
    assert (passes[found.name]["H"][:] == found.state.H).all()
    W = np.concatenate([found.read_weights(block) for block in range(6)])
    assert (passes[found.weights_name][:] == W).all()
    read = xr.open_zarr(path / found.name)
    assert read.H.dims == ("component", "pixel")
    assert (read.H.values == found.state.H).all()


def test_a_model_keeps_the_time_of_its_passes_and_its_versions(digits, tmp_path):
    model = dnmf.NMF(4, checkpoint=tmp_path / "m", random_state=0, tol=0, max_iter=3)
    kept = open_checkpoint(model.fit(digits).checkpoint)
    assert len(kept.state.seconds) == 4  # of the start, and of each pass
    assert min(kept.state.seconds) >= 0
    assert kept.state.memory > 2**20
    assert kept.spec.versions["numpy"] == np.__version__
    assert kept.spec.versions["blas"]
    longer = clone(model).set_params(max_iter=5).fit(digits)
    assert longer._state.seconds[:4] == kept.state.seconds
    assert len(longer._state.seconds) == 6


def test_a_model_of_before_has_neither_and_is_read(digits, tmp_path):
    model = dnmf.NMF(4, checkpoint=tmp_path / "m", random_state=0, tol=0, max_iter=3).fit(digits)
    file = sorted((tmp_path / "m").glob("pass-*/zarr.json"))[-1]
    node = json.loads(file.read_text())
    record = node["attributes"]["dnmf"]
    del record["seconds"], record["memory"], record["fit"]["versions"]
    node["attributes"]["dnmf"] = with_checksum(record)
    file.write_text(json.dumps(node))
    loaded = dnmf.load(tmp_path / "m")
    assert loaded._state.seconds == ()
    assert loaded._spec.versions == {}
    assert (loaded.components_ == model.components_).all()
    clone(model).set_params(max_iter=5).fit(digits)
