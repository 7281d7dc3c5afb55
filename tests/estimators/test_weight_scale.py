"""The scale of sample weights changes the scale of the losses, and nothing else."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from reference import Dataset

import dnmf
from dnmf import NMF

LOSSES = pytest.mark.parametrize("beta_loss", ["frobenius", "kullback-leibler"])
POWERS = (-300, 2, 400)
N, P = 120, 16


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def X(request):
    rng = np.random.default_rng(0)
    return (rng.random((N, 4)) @ rng.random((4, P)) + 0.1 * rng.random((N, P))).astype(
        request.param
    )


@pytest.fixture(scope="module")
def weights():
    return 1 + np.random.default_rng(1).random(N)


def fit(X, weights, **options):
    return NMF(3, random_state=0, tol=1e-3, **options).fit(X, sample_weight=weights)


@LOSSES
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("options", [{}, {"alpha_W": 1e-3, "l1_ratio": 0.5}], ids=str)
def test_powers_of_four_change_no_bit(X, weights, power, beta_loss, options):
    unit = 2.0**power
    one = fit(X, weights, beta_loss=beta_loss, **options)
    other = fit(X, unit * weights, beta_loss=beta_loss, **options)
    assert (other.components_ == one.components_).all()
    assert (other.loss_history_ == unit * one.loss_history_).all()
    assert other.reconstruction_err_ == pytest.approx(np.sqrt(unit) * one.reconstruction_err_)
    assert (other.energy_shares_ == one.energy_shares_).all()
    assert other.score(X, sample_weight=unit * weights) == one.score(X, sample_weight=weights)


@pytest.mark.parametrize("scale", [1e-100, 3e-7, 1e40])
@pytest.mark.parametrize("source", ["memory", "dask"])
def test_any_scale_finds_the_same(X, scale, source):
    images = X if source == "memory" else da.from_array(X, chunks=(30, P))
    plain = fit(images, None)
    scaled = fit(images, np.full(N, scale))
    np.testing.assert_allclose(scaled.components_, plain.components_, rtol=5e-2, atol=2e-2)
    assert scaled.reconstruction_err_ == pytest.approx(
        np.sqrt(scale) * plain.reconstruction_err_, rel=1e-3
    )


def test_one_dark_weight_among_others(X, weights):
    weights = weights.copy()
    weights[3] = 1e-300
    without = np.delete(np.arange(N), 3)
    one = fit(X, weights)
    np.testing.assert_allclose(
        one.reconstruction_err_, fit(X[without], weights[without]).reconstruction_err_, rtol=1e-2
    )


def test_checkpoints_keep_the_scale_of_the_user(X, weights, tmp_path):
    whole = NMF(3, random_state=0, tol=0, max_iter=6).fit(X, sample_weight=2.0**80 * weights)
    options = {"checkpoint": tmp_path / "m", "random_state": 0, "tol": 0}

    class StopError(Exception):
        pass

    def stop(state):
        assert state.losses[-1] > 2.0**70
        if state.n_iter == 3:
            raise StopError

    with pytest.raises(StopError):
        NMF(3, on_pass=stop, max_iter=6, **options).fit(X, sample_weight=2.0**80 * weights)
    resumed = NMF(3, max_iter=6, **options).fit(X, sample_weight=2.0**80 * weights)
    assert (resumed.components_ == whole.components_).all()
    assert (resumed.loss_history_ == whole.loss_history_).all()
    loaded = dnmf.load(tmp_path / "m")
    assert loaded.reconstruction_err_ == whole.reconstruction_err_
    with pytest.raises(dnmf.errors.CheckpointError, match="sample_weight was"):
        NMF(3, **options).fit(X, sample_weight=weights)


@pytest.mark.parametrize("power", [-300, 4])
def test_sweeps(weights, power):
    rng = np.random.default_rng(0)
    X = rng.random((N, 2)) @ rng.random((2, P)) + 0.01 * rng.random((N, P))
    model = NMF(random_state=0, tol=1e-2)
    one, other = (
        dnmf.rank_sweep(X, [1, 2], model, n_init=2, sample_weight=unit * weights)
        for unit in (1.0, 2.0**power)
    )
    assert other.best_n_components_ == one.best_n_components_
    for a, b in zip(one.table, other.table, strict=True):
        assert a["held_out_error"] == b["held_out_error"]


@LOSSES
@pytest.mark.parametrize("power", POWERS)
def test_streams(X, weights, power, beta_loss):
    models = []
    for unit in (1.0, 2.0**power):
        model = NMF(3, random_state=0, beta_loss=beta_loss)
        for rows in (slice(0, 50), slice(50, N)):
            model.partial_fit(X[rows], sample_weight=unit * weights[rows])
        models.append(model)
    assert (models[0].components_ == models[1].components_).all()


def test_streams_weigh_their_calls_alike(X):
    def after(second):
        model = NMF(3, random_state=0).partial_fit(X, sample_weight=np.full(N, 8.0))
        return model.partial_fit(X[:, ::-1], sample_weight=np.full(N, second)).components_

    assert not np.allclose(after(8.0), after(1.0))


def test_streams_refuse_weights_that_they_cannot_add_up(X):
    tiny = np.full(N, 1e-100)
    model = NMF(3, random_state=0).partial_fit(X)
    with pytest.raises(
        ValueError,
        match=r"sample_weight: the largest, to a factor of 4, is [2-9].*e-101, outside 1e-15",
    ):
        model.partial_fit(X, sample_weight=tiny)
    stream = NMF(3, random_state=0).partial_fit(X, sample_weight=tiny)
    stream.partial_fit(X, sample_weight=tiny)
    with pytest.raises(ValueError, match="to a factor of 4, is 1, outside"):
        stream.partial_fit(X)


@pytest.mark.parametrize("weight", [1e-201, 1e201])
def test_weights_whose_losses_are_no_numbers(X, weight):
    for method in (NMF(3).fit, NMF(3).partial_fit):
        with pytest.raises(
            ValueError, match=r"sample_weight: the largest is 1e.*201, outside 1e-200"
        ):
            method(X, sample_weight=np.full(N, weight))


@pytest.mark.parametrize("wrap", [Dataset, lambda weights: da.from_array(weights, chunks=50)])
def test_weights_outside_memory(X, weights, wrap):
    images = da.from_array(X, chunks=(30, P))
    for power in (-20, 0, 4):  # in memory they are divided by it, and in blocks they are not
        some = 2.0**power * weights
        assert (fit(images, wrap(some)).components_ == fit(images, some).components_).all()
    for scale in (1e-100, 1e40):
        with pytest.raises(
            ValueError, match=r"sample_weight: that of image \d+ is 1e.*outside 1e-15"
        ):
            fit(images, wrap(np.full(N, scale)))
        assert (
            fit(X, wrap(scale * weights)).components_ == fit(X, scale * weights).components_
        ).all()
