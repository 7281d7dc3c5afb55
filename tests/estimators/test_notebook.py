"""What a model, a sweep, a plan and damaged files show in a notebook."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import sklearn
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import dnmf
from dnmf.io.export import write_weights

MOST_BYTES = 200_000
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model(corpus):
    return dnmf.NMF(5, random_state=0, tol=0.05).fit(corpus)


class TestModel:
    def test_before_the_fit_it_is_scikit_learns(self):
        assert dnmf.NMF(3)._repr_html_().count("<img") == 0
        assert "Parameters" in dnmf.NMF(3)._repr_html_()

    def test_after_the_fit_its_components_follow_in_order_of_their_shares(self, model):
        page = model._repr_html_()
        assert page.count("Fitted attributes") <= 1, "scikit-learn's diagram, once"
        assert page.count("data:image/png") == 5
        numbers = [int(n) for n in re.findall(r"title='(\d+) · [\d.]+ %'", page)]
        assert numbers == np.argsort(-model.energy_shares_).tolist()
        assert f"{model.n_iter_} passes, converged" in page
        assert f"{model.reconstruction_err_:.6g}" in page
        assert len(page) < MOST_BYTES

    def test_both_ways_that_frontends_ask(self, model):
        bundle = model._repr_mimebundle_()
        assert bundle["text/plain"] == repr(model)
        assert bundle["text/html"].count("data:image/png") == 5

    def test_text_where_scikit_learn_is_told_so(self, model):
        with sklearn.config_context(display="text"):
            assert not hasattr(model, "_repr_html_")
            assert list(model._repr_mimebundle_()) == ["text/plain"]

    def test_a_pipeline_is_drawn(self, model):
        page = make_pipeline(FunctionTransformer(), model)._repr_html_()
        assert "NMF" in page
        assert "data:image/png" not in page

    @pytest.mark.parametrize("components", [None, "x", [[1, np.nan]], np.ones((2, 0)), np.ones(3)])
    def test_components_that_are_none(self, components):
        model = dnmf.NMF(2)
        model.components_ = components
        assert "data:image/png" not in model._repr_html_()

    def test_components_that_a_user_has_set(self, model):
        other = dnmf.NMF(2)
        other.components_ = np.eye(2, 9)
        assert other._repr_html_().count("data:image/png") == 2

    def test_after_partial_fit(self):
        model = dnmf.NMF(2, random_state=0).partial_fit(RNG.random((40, 6)))
        assert f"{model.n_steps_} updates by partial_fit" in model._repr_html_()

    def test_components_of_many_colours_are_left_out_where_they_are_too_much(self):
        model = dnmf.NMF(30)
        model.components_ = RNG.random((30, 64 * 64 * 3))
        model.image_shape_ = (64, 64, 3)
        page = model._repr_html_()
        assert 8 <= page.count("data:image/png") < 24
        assert len(page) < MOST_BYTES


class TestSweep:
    @pytest.mark.parametrize("holdout", [0, 0.1])
    def test_the_curve_has_a_point_for_each_number(self, holdout):
        X = RNG.gamma(1, size=(60, 3)) @ RNG.gamma(0.2, size=(3, 20))
        rough = dnmf.NMF(random_state=0, tol=0.1, max_iter=3)
        sweep = dnmf.rank_sweep(X, [2, 3, 4], rough, holdout=holdout, n_init=2)
        page = sweep._repr_html_()
        assert page.count("<circle") == 3
        assert page.count("<svg") == 1
        assert repr(sweep) == str(sweep)
        marked = re.findall(r"fill='#d55e00'>(\d+)</text>", page)
        assert marked == [str(sweep.best_n_components_)]


class TestPlan:
    def test_a_bar_for_each_limit(self):
        plan = dnmf.NMF(2).plan(np.ones((20, 9)), trial=False)
        plan = replace(plan, driver_memory=3 * 10**9, driver_limit=4e9)
        assert "width:75.0%" in plan._repr_html_()
        assert "#d55e00" not in plan._repr_html_()
        short = replace(plan, workers=2, worker_memory=2 * 10**9, worker_limit=1e9)
        assert "#d55e00" in short._repr_html_()
        assert "worker: 2.0 GB of 1.0 GB, 200%" in short._repr_html_()
        assert "width:" not in replace(plan, driver_limit=math.inf)._repr_html_()
        assert repr(plan) == str(plan)


def test_what_is_gone_or_has_hostile_names_is_shown_as_text(tmp_path):
    path = tmp_path / "<script>'\"&"
    path.mkdir()
    corpus = dnmf.ingest(RNG.random((8, 5, 5)), path / "c.zarr", block_rows=4)
    model = dnmf.NMF(2, random_state=0, tol=0.1).fit(corpus)
    write_weights(model, corpus, path / "w.zarr")
    weights = dnmf.open_weights(path / "w.zarr")
    for shown, pictures in ((corpus, 4), (weights, 1)):
        page = shown._repr_html_()
        assert page.count("<img") == pictures
        assert "<script>" not in page
        shutil.rmtree(shown.path)
        page = shown._repr_html_()
        assert "<img" not in page
        assert "<table>" in page
        assert str(tmp_path) in repr(shown)
