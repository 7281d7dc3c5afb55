"""Sweeps over numbers of components: choice, reads, bits, checkpoints and refused input."""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import sys
from functools import partial

import dask.array as da
import numpy as np
import pytest
from made_images import corpus
from processes import wait_until
from reference import CountingReads

import dnmf
from dnmf.errors import CapacityError, CheckpointError, ClaimError, DataError, ParameterError
from dnmf.model_selection.sweep_store import FORMAT, list_models
from dnmf.solvers import multi_fit
from dnmf.storage.store import ObjectStore

RANKS = [3, 4, 5]


def nmf(n_components=None, **parameters):
    """Return an estimator of rough fits: nothing here asks for more, and they are soon done."""
    return dnmf.NMF(n_components, **{"random_state": 0, "tol": 1e-2, **parameters})


def rough_sweep(X, ranks=RANKS, **options):
    return dnmf.rank_sweep(X, ranks, nmf(), **options)


@pytest.fixture(scope="module")
def X():
    return corpus("blobs", 4, 0.1, n=240, side=12)


@pytest.fixture(scope="module")
def sweep(X):
    return rough_sweep(X, n_init=2)


def components(sweep):
    return [model.components_ for model in sweep.models_.values()]


def assert_same(one, other):
    assert one.table == other.table
    assert one.reason_ == other.reason_
    for H, other_H in zip(components(one), components(other), strict=True):
        assert np.array_equal(H, other_H)


def chunked(X, rows=50):
    return da.from_array(X, chunks=(rows, -1))


class TestChoice:
    @pytest.mark.parametrize(
        ("kind", "noise", "counted"),
        [("blobs", 0.05, False), ("bars", 0.2, True), ("faces", 0.1, False)],
    )
    def test_a_known_rank_is_found(self, kind, noise, counted):
        made = corpus(kind, 5, noise, n=600, side=16, counted=counted)
        sweep = dnmf.rank_sweep(made, [4, 5, 6], nmf(tol=1e-3), n_init=2)
        assert sweep.best_n_components_ == 5, sweep
        assert sweep.clear_, sweep

    def test_digits_have_no_clear_answer(self, digits):
        sweep = dnmf.rank_sweep(digits, [4, 8], nmf(tol=1e-2), n_init=2)
        assert not sweep.clear_
        assert sweep.reason_.startswith("No clear answer. 8 components")
        assert "the largest number tried" in sweep.reason_

    def test_the_result(self, sweep, X):
        assert list(sweep.models_) == RANKS
        assert sweep.best_n_components_ == 4
        assert sweep.best_model_ is sweep.models_[4]
        assert [row["n_components"] for row in sweep.table] == RANKS
        for row, model in zip(sweep.table, sweep.models_.values(), strict=True):
            assert row["error"] == model.reconstruction_err_
            assert row["error_per_cell"] == pytest.approx(row["error"] / np.sqrt(X.size), rel=0.01)
        errors = [row["error"] for row in sweep.table]
        assert errors == sorted(errors, reverse=True)
        hidden = [row["held_out_error"] for row in sweep.table]
        assert hidden.index(min(hidden)) == 1
        assert sweep.table[1]["standard_error"] == 0
        assert sweep.table[1]["stability"] > 0.9 > sweep.table[2]["least_stable"]
        assert json.loads(json.dumps(sweep.as_dict()))["best_n_components"] == 4
        lines = str(sweep).splitlines()
        assert [line.split()[:2] for line in lines[1:4]] == [
            ["3", f"{errors[0]:.6g}"],
            ["->", "4"],
            ["5", f"{errors[2]:.6g}"],
        ]
        assert lines[-1] == sweep.reason_

    def test_the_held_out_error_is_that_of_hidden_cells(self, X):
        from dnmf.numerics.holdout import Holdout

        seen = []
        rough_sweep(X, [4], n_init=1, on_pass=lambda progress: seen.append(progress.states))
        state = seen[-1][1]  # the model that cells were hidden from
        shown = Holdout(0, 0.1)(dnmf.estimators.inputs.blocks_of(X).map_sum(list_of)[0])
        hidden, visible = ~shown.visible.observed, shown.visible.X
        assert state.held_out[:, 1].sum() == hidden.sum()
        weights = solved(visible, shown.visible.observed, state.H)
        again = np.minimum(weights @ state.H, visible.max(axis=1, keepdims=True))
        lost = 0.5 * ((shown.whole.X - again)[hidden] ** 2).sum()
        assert state.held_out[:, 0].sum() == pytest.approx(lost, rel=1e-3)

    def test_without_hidden_cells_stability_decides(self, X):
        sweep = rough_sweep(X, n_init=3, holdout=0)
        assert sweep.best_n_components_ == 4
        assert {row["held_out_error"] for row in sweep.table} == {None}
        assert "are all the same from every start" in sweep.reason_

    def test_one_start(self, X):
        sweep = rough_sweep(X, n_init=1)
        assert sweep.best_n_components_ == 4

    @pytest.mark.slow
    def test_other_losses_penalties_masks_and_weights(self, X):
        hidden = np.random.default_rng(0).random(X.shape) < 0.1
        spoilt = np.where(hidden, 1e6, X).astype(X.dtype)
        weights = np.linspace(0.5, 1.5, len(X))
        sweep = rough_sweep(spoilt, n_init=1, mask=hidden, sample_weight=weights)
        assert sweep.best_n_components_ == 4
        lost = dnmf.rank_sweep(X, RANKS, nmf(beta_loss="kullback-leibler", max_iter=20), n_init=1)
        assert lost.best_n_components_ == 4
        assert lost.models_[4].beta_loss == "kullback-leibler"
        sparse = dnmf.rank_sweep(X, [4], nmf(alpha_W=1e-3, l1_ratio=1.0), n_init=1)
        assert sparse.models_[4].alpha_W == 1e-3


def list_of(block):
    return [block]


def solved(X, observed, H):
    from scipy.optimize import nnls

    rows = zip(X.astype(float), observed, strict=True)
    return np.array([nnls(H[:, seen].T, x[seen])[0] for x, seen in rows])


class TestReadsAndBits:
    def test_a_pass_reads_every_block_once_for_all_models(self, X):
        counting = CountingReads(X)
        rows = 60

        def read(block_id=None):
            start = block_id[0] * rows
            return counting.read(start, start + rows)

        lazy = da.map_blocks(
            read, chunks=((rows,) * 4, X.shape[1:]), dtype=X.dtype, meta=np.empty((0, 0), X.dtype)
        )
        passes = []
        sweep = rough_sweep(lazy, n_init=2, on_pass=lambda progress: passes.append(progress))
        # The first block is looked at beforehand; the sample is a read, then come the passes.
        expected = 1 + len(passes) + (np.arange(len(X)) < rows)
        assert np.array_equal(counting.reads, expected)
        assert sweep.n_reads_ == counting.reads.mean()
        assert passes[0].models == 12
        going = [progress.active for progress in passes]
        assert going == sorted(going, reverse=True)
        assert going[-1] == 0 < going[0]
        alone = max(
            nmf(rank, random_state=seed).fit(da.from_array(X, chunks=(rows, -1))).n_iter_
            for rank in RANKS
            for seed in (0, 1)
        )
        assert len(passes) >= alone

    def test_models_have_the_bits_of_fits_alone(self, X, sweep):
        blocks = da.from_array(X, chunks=X.shape)  # in passes, as those of a sweep are
        for row, model in zip(sweep.table, sweep.models_.values(), strict=True):
            alone = nmf(row["n_components"], random_state=row["seed"]).fit(blocks)
            assert np.array_equal(model.components_, alone.components_)
            assert model.stop_reason_ == alone.stop_reason_
            assert np.array_equal(model.energy_shares_, alone.energy_shares_)
            others = [
                nmf(row["n_components"], random_state=seed).fit(blocks).reconstruction_err_
                for seed in (0, 1)
            ]
            assert row["error"] == min(others)

    def test_bits_do_not_depend_on_the_engine(self, X, client):
        lazy = chunked(X)
        with_workers = rough_sweep(lazy, n_init=2)
        with dask_threads():
            assert_same(with_workers, rough_sweep(lazy, n_init=2))

    def test_groups_that_memory_requires_change_no_bits(self, X, sweep, monkeypatch, caplog):
        monkeypatch.setattr(multi_fit, "groups_that_fit", lambda *_: [slice(0, 5), slice(5, 12)])
        reports = []
        grouped = rough_sweep(X, n_init=2, on_pass=reports.append)
        assert_same(sweep, grouped)
        assert {(report.group, report.groups, report.models) for report in reports} == {
            (1, 2, 5),
            (2, 2, 7),
        }
        assert grouped.n_reads_ > sweep.n_reads_

    def test_too_large_for_this_machine(self):
        huge = da.random.default_rng(0).integers(0, 9, (40, 10**6), np.uint8, chunks=(20, -1))
        with pytest.raises(CapacityError, match="components needs about"):
            dnmf.rank_sweep(huge, [10**6, 10], n_init=2, holdout=0)

    @pytest.mark.slow
    def test_more_pixels_than_a_block_of_columns(self, X, sweep, monkeypatch):
        monkeypatch.setattr("dnmf.solvers.loop.COLUMNS", 100)
        parts = rough_sweep(X, n_init=2)
        assert parts.best_n_components_ == 4
        assert [row["error"] for row in parts.table] == pytest.approx(
            [row["error"] for row in sweep.table]
        )


def has_a_pass(path):
    """Check whether a model of a running sweep has finished its first pass."""
    listings = (ObjectStore(model).list_dir() for model in list_models(str(path)))
    return any(name.startswith("pass-000001") for names in listings for name in names)


def dask_threads():
    import dask

    return dask.config.set(scheduler="threads")


class StopError(Exception):
    pass


def stopping(after):
    count = 0

    def on_pass(progress):
        nonlocal count
        count += 1
        if count == after:
            raise StopError

    return on_pass


class TestCheckpoints:
    def test_a_sweep_that_was_stopped_goes_on_with_the_same_bits(self, X, sweep, tmp_path):
        path = tmp_path / "s"
        for after in (1, 1):
            with pytest.raises(StopError):
                rough_sweep(X, n_init=2, checkpoint=path, on_pass=stopping(after))
            with pytest.raises(CheckpointError, match="models are unfinished"):
                dnmf.load_sweep(path)
        assert_same(sweep, rough_sweep(X, n_init=2, checkpoint=path))
        assert_same(sweep, dnmf.load_sweep(path))

    @pytest.mark.slow
    def test_a_sweep_that_was_stopped_during_its_starts_goes_on(
        self, X, sweep, tmp_path, monkeypatch
    ):
        first, count = multi_fit.create_checkpoint, 0

        def create(*arguments):
            nonlocal count
            count += 1
            if count == 5:
                raise StopError
            return first(*arguments)

        monkeypatch.setattr(multi_fit, "create_checkpoint", create)
        with pytest.raises(StopError):
            rough_sweep(X, n_init=2, checkpoint=tmp_path / "s")
        assert len(list_models(str(tmp_path / "s"))) == 4
        assert_same(sweep, rough_sweep(X, n_init=2, checkpoint=tmp_path / "s"))

    def test_a_finished_sweep_runs_no_pass_again(self, X, tmp_path):
        path = tmp_path / "s"
        first = rough_sweep(X, [2, 3], n_init=1, checkpoint=path)
        reports = []
        assert_same(
            first, rough_sweep(X, [2, 3], n_init=1, checkpoint=path, on_pass=reports.append)
        )
        assert reports == []

    def test_other_numbers_are_added_to_a_sweep(self, X, sweep, tmp_path):
        path = tmp_path / "s"
        rough_sweep(X, [3, 4], n_init=2, checkpoint=path)
        assert_same(sweep, rough_sweep(X, [5], n_init=2, checkpoint=path))

    def test_each_checkpoint_is_a_model(self, X, sweep, tmp_path):
        path = tmp_path / "s"
        rough_sweep(X, [3, 4], n_init=1, checkpoint=path)
        names = [os.path.basename(model) for model in list_models(str(path))]
        assert names == ["k0003-part-0", "k0003-whole-0", "k0004-part-0", "k0004-whole-0"]
        model = dnmf.load(path / "k0004-whole-0")
        assert model.transform(X).shape == (len(X), 4)
        assert not dnmf.verify(path).findings
        damaged = list((path / "k0003-part-0").glob("pass-*/H/c.0.0"))
        for file in damaged:
            file.write_bytes(file.read_bytes()[:-3])
        findings = dnmf.verify(path).findings
        assert len(findings) == len(damaged) > 0
        assert all("k0003-part-0" in finding.what for finding in findings)
        with pytest.raises(CheckpointError, match="k0003-part-0"):
            dnmf.load_sweep(path)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"random_state": 7}, None),
            ({"holdout": 0.2}, "holdout was 0.1, is 0.2"),
            ({"alpha_W": 0.1}, "alpha_W was 0.0, is 0.1"),
        ],
    )
    def test_another_sweep_is_refused(self, X, tmp_path, change, words):
        path = tmp_path / "s"
        rough_sweep(X, [2], n_init=1, checkpoint=path)
        if words is None:  # other seeds are other models
            dnmf.rank_sweep(X, [2], nmf(**change), n_init=1, checkpoint=path)
            assert len(list_models(str(path))) == 4
            return

        def sweep_again(change):
            holdout = change.pop("holdout", 0.1)
            dnmf.rank_sweep(X, [2], nmf(**change), n_init=1, holdout=holdout, checkpoint=path)

        with pytest.raises(CheckpointError, match=words):
            sweep_again(change)

    def test_another_corpus_is_refused(self, X, tmp_path):
        rough_sweep(X, [2], n_init=1, checkpoint=tmp_path / "s")
        with pytest.raises(CheckpointError, match="fingerprint was"):
            rough_sweep(X * 2, [2], n_init=1, checkpoint=tmp_path / "s")

    def test_two_sweeps_in_one_folder_are_refused(self, X, tmp_path):
        def again(progress):
            with pytest.raises(ClaimError):
                rough_sweep(X, [2], n_init=1, checkpoint=tmp_path / "s")

        rough_sweep(X, [2], n_init=1, checkpoint=tmp_path / "s", on_pass=again)

    def test_other_contents_are_refused(self, X, tmp_path):
        dnmf.NMF(2, max_iter=1, tol=0).fit(X).save(tmp_path / "m")
        for call in (
            lambda: dnmf.rank_sweep(X, [2], checkpoint=tmp_path / "m"),
            lambda: dnmf.load_sweep(tmp_path / "m"),
        ):
            with pytest.raises(CheckpointError, match="is no sweep: it holds something else"):
                call()
        with pytest.raises(CheckpointError, match="nothing is there"):
            dnmf.load_sweep(tmp_path / "nothing")
        rough_sweep(X, [2], n_init=1, checkpoint=tmp_path / "s")
        record = tmp_path / "s/zarr.json"
        record.write_text(record.read_text().replace('"version": 1', '"version": 9'))
        with pytest.raises(CheckpointError, match="sweep format 9"):
            dnmf.load_sweep(tmp_path / "s")
        assert FORMAT in record.read_text()

    @pytest.mark.slow
    def test_after_kill_9_the_same_command_goes_on(self, X, tmp_path):
        np.save(tmp_path / "x.npy", X.reshape(-1, 12, 12))
        images = dnmf.ingest(tmp_path / "x.npy", tmp_path / "x.zarr", block_rows=50)
        line = [sys.executable, "-m", "dnmf", "rank", images.path, "-k", "3-5", "--seeds", "2"]
        for out in ("killed", "whole"):
            arguments = [*line[:5], str(tmp_path / out), *line[5:]]
            if out == "killed":
                process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
                try:
                    wait_until(partial(has_a_pass, tmp_path / out), "a first pass")
                finally:
                    process.kill()
                    status = process.wait()
                assert status == -signal.SIGKILL
                with pytest.raises(CheckpointError):
                    dnmf.load_sweep(tmp_path / out)
            subprocess.run(arguments, check=True, capture_output=True)
        assert_same(dnmf.load_sweep(tmp_path / "whole"), dnmf.load_sweep(tmp_path / "killed"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("ranks", "words"),
        [
            ([], r"n_components is \[\]; it must be a list of one int >= 1 or more"),
            ([0, 3], r"n_components is \[0, 3\]; it must be a list of ints >= 1"),
            ([2.5], "a list of ints >= 1"),
            ([True], "a list of ints >= 1"),
            ([9, 4, 9], r"n_components repeats \[9\]: give each number once"),
            (9, "n_components is 9; it must be a list"),
            ("9,25", "it must be a list"),
        ],
    )
    def test_ranks(self, X, ranks, words):
        with pytest.raises(ParameterError, match=words):
            dnmf.rank_sweep(X, ranks)

    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"holdout": 1.5}, "holdout is 1.5, which leaves no cells to fit"),
            ({"holdout": 0.7}, "holdout is 0.7; it must be 0, or a share from 0.05 to 0.5"),
            ({"holdout": -0.1}, "holdout is -0.1"),
            ({"n_init": 0}, "n_init is 0; it must be an int >= 1"),
            ({"n_init": 1, "holdout": 0}, "which gives no score to choose by"),
            ({"estimator": nmf(tol=-1)}, "tol is -1"),
            ({"estimator": nmf(solver="pg")}, "solver is 'pg'"),
            ({"estimator": nmf(random_state=-1)}, "random_state is -1"),
            ({"estimator": nmf(init="nndsvd")}, "the estimator has init='nndsvd'; in a sweep it"),
            ({"estimator": nmf(n_init=2)}, "the estimator has n_init=2; in a sweep it must be 1"),
            ({"estimator": nmf(checkpoint="m")}, "has checkpoint='m'; in a sweep it must be None"),
            ({"estimator": "cd"}, "estimator is 'cd'; it must be an NMF, or None"),
            ({"tol": 1e-3}, r"takes tol from an estimator: pass it .* NMF\(tol=0.001\)\)"),
            ({"solver": "mu", "beta_loss": 1}, r"NMF\(beta_loss=1, solver='mu'\)\)"),
            ({"ranks": 3}, "unexpected keyword argument 'ranks'"),
        ],
    )
    def test_parameters(self, X, parameters, words):
        with pytest.raises(ParameterError, match=words):
            dnmf.rank_sweep(X, [2], **parameters)
        with pytest.raises(TypeError):
            dnmf.rank_sweep(X, [2], **parameters)

    def test_the_estimator_is_not_changed(self, X):
        estimator = nmf(tol=1e-2, n_components=7)
        before = estimator.get_params()
        dnmf.rank_sweep(X, [2, 3], estimator, n_init=1)
        assert estimator.get_params() == before
        assert not hasattr(estimator, "n_features_in_")

    def test_equal_pixels(self):
        constant = np.full((100, 30), 7, np.uint8)
        for X in (constant, chunked(constant, 20)):
            with pytest.raises(DataError, match="every pixel of the 100 images is 7"):
                dnmf.rank_sweep(X, [2, 3])

    def test_all_pixels_masked(self, X):
        with pytest.raises(DataError, match="hide every pixel of the 240 images"):
            dnmf.rank_sweep(X, [2, 3], mask=np.ones(X.shape, bool))
        seen = np.zeros(X.shape, bool)
        seen[:60] = True  # nothing of the first block
        assert rough_sweep(chunked(X), n_init=1, mask=seen).best_n_components_ == 4

    def test_equal_pixels_of_the_first_block_are_accepted(self, X):
        dark = np.vstack([np.zeros((50, X.shape[1]), X.dtype), X])
        assert rough_sweep(chunked(dark), n_init=1).best_n_components_ == 4

    def test_too_few_cells(self):
        with pytest.raises(DataError, match="at least 10 images of 2 pixels"):
            dnmf.rank_sweep(np.eye(5), [2])
        with pytest.raises(DataError, match="at least 10 images of 2 pixels"):
            dnmf.rank_sweep(np.arange(20.0)[:, None], [1])

    def test_pixels_that_cannot_be_factorised(self, X):
        bad = X.copy()
        bad[170, 3] = -1
        with pytest.raises(DataError, match="the first is -1 at pixel 3 of image 170"):
            rough_sweep(bad, [2, 3], n_init=1)


class TestStartsOfOneFit:
    def test_the_best_is_kept_with_its_bits(self, X):
        alone = [nmf(5, random_state=seed).fit(X) for seed in (3, 4, 5)]
        best = min(alone, key=lambda model: model.loss_history_[-1])
        model = nmf(5, n_init=3, random_state=3).fit(X)
        assert np.array_equal(model.components_, best.components_)
        assert model.reconstruction_err_ == best.reconstruction_err_
        assert model.stop_reason_ == best.stop_reason_
        assert model.n_reads_ == max(one.n_reads_ for one in alone)

    def test_on_pass_is_called_with_the_best_state(self, X):
        reports = []
        model = nmf(5, n_init=3, random_state=3, on_pass=reports.append).fit(X)
        losses = np.array([state.losses[-1] for state in reports])
        assert (np.diff(losses) <= 1e-5 * losses[:-1]).all()
        assert losses[-1] == model.loss_history_[-1]

    def test_a_fit_that_was_stopped_goes_on(self, X, tmp_path):
        path = tmp_path / "m"
        whole = nmf(5, n_init=3, random_state=3, tol=1e-6, checkpoint=f"{path}-whole").fit(X)
        options = {"n_init": 3, "random_state": 3, "tol": 1e-6, "checkpoint": path}
        for after in (1, 2):
            with pytest.raises(StopError):
                nmf(5, **options, on_pass=stopping(after)).fit(X)
            assert sorted(os.listdir(tmp_path)) == ["m-whole", "m.starts"]
        model = nmf(5, **options).fit(X)
        assert np.array_equal(model.components_, whole.components_)
        assert sorted(os.listdir(tmp_path)) == ["m", "m-whole"]
        loaded = dnmf.load(path)
        assert loaded.n_init == 3
        assert np.array_equal(loaded.components_, whole.components_)
        assert not dnmf.verify(path).findings
        with pytest.raises(CheckpointError, match="n_init was 3, is 2"):
            nmf(5, **options | {"n_init": 2}).fit(X)

    @pytest.mark.parametrize("init", ["nndsvd", "custom"])
    def test_starts_that_would_be_the_same(self, X, init):
        with pytest.raises(ParameterError, match=f"n_init is 2, but all starts with init='{init}'"):
            dnmf.NMF(2, n_init=2, init=init).fit(X)

    def test_no_starts_at_all(self, X):
        with pytest.raises(ParameterError, match="n_init is 0; it must be an int >= 1"):
            dnmf.NMF(2, n_init=0).fit(X)


def test_a_notebook_shows_the_table(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.gamma(1, size=(60, 3)) @ rng.gamma(0.2, size=(3, 20))
    rough = dnmf.NMF(random_state=0, tol=0.1, max_iter=3)
    for options in ({}, {"holdout": 0, "n_init": 2}):
        sweep = dnmf.rank_sweep(X, [2, 3], rough, **{"n_init": 1} | options)
        page = sweep._repr_html_()
        assert page.count("<tr>") == 3
        assert page.count("<td") == 7, "the recommended one is in bold"
        assert "held-out cells" in page
        assert page.endswith(f"<p>{html.escape(sweep.reason_)}</p>")
        first, *lines = str(sweep).splitlines()
        assert "held-out cells" in first
        assert [line.split()[0] for line in lines[:2]].count("->") == 1
