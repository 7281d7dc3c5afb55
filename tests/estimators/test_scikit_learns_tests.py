"""scikit-learn's own tests of NMF, of the version that is installed, run on dnmf.

Tests of scikit-learn's internals are left out; `CANNOT_HOLD` says of each other that fails why.
"""

from __future__ import annotations

import inspect
import types
from pathlib import Path

import numpy as np
import pytest
from sklearn import config_context, decomposition

import dnmf

SOURCE = Path(decomposition.__file__).parent / "tests" / "test_nmf.py"
if not SOURCE.exists():
    pytest.skip("scikit-learn is installed without its tests", allow_module_level=True)

NAMES = "NMF, MiniBatchNMF, non_negative_factorization"

OF_INTERNALS = (
    "test_initialize_nn_output",
    "test_initialize_close",
    "test_initialize_variants",
    "test_beta_divergence",
    "test_special_sparse_dot",
    "test_nmf_underflow",
)

CANNOT_HOLD = {
    "test_minibatch_nmf_partial_fit": "fit makes passes over all images, partial_fit updates by "
    "batches; n_steps_ is equal, components are not",
    "test_nmf_minibatchnmf_equivalence[2]": "MiniBatchNMF takes cd for squared error, as NMF does "
    "by default, and the test compares it with NMF's mu",
    "test_nmf_decreasing[mu]": "a pass of mu knows the loss of the H that it began with, and "
    "components_ is that H: with max_iter=1 it is the H given",
    "test_nmf_multiplicative_update_sparse": "W is solved to a tolerance, by another method for "
    "betas that have a name, so that 1 and 1 - 1e-5 differ by more than 1e-4",
    "test_NMF_inverse_transform_Xt_deprecation": "Xt, the name of X before scikit-learn 1.7, is "
    "not taken",
}
"""Reason for each test that does not hold, by its name with or without its parameters."""

SLOW = ("test_nmf_fit_nn_output", "test_nmf_sparse_input", "test_nmf_minibatchnmf_equivalence")

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:The multiplicative update:UserWarning"),
]


def _their_tests() -> dict[str, object]:
    text = SOURCE.read_text(encoding="utf-8")
    line = f"from sklearn.decomposition import {NAMES}"
    assert text.count(line) == 1
    text = text.replace(line, f"from dnmf import {NAMES}")
    text = text.replace("est._n_components", "est.n_components_")  # a private name of theirs
    module = types.ModuleType("theirs")
    exec(compile(text, str(SOURCE), "exec"), vars(module))
    names = [name for name in vars(module) if name.startswith("test_")]
    tests = {name: vars(module)[name] for name in names if name not in OF_INTERNALS}
    for name in SLOW:
        tests[name] = pytest.mark.slow(tests[name])
    return tests


globals().update(_their_tests())


@pytest.fixture(autouse=True)
def _expect_what_cannot_hold(request):
    for name in (request.node.name, request.node.name.partition("[")[0]):
        if name in CANNOT_HOLD:
            request.applymarker(pytest.mark.xfail(reason=CANNOT_HOLD[name], strict=False))


@pytest.mark.parametrize("update_H", [True, False])
def test_the_function_returns_arrays_whatever_the_output_of_transform(update_H):
    X, H = np.random.default_rng(0).random((20, 6)), np.ones((2, 6))
    start = {"H": H, "update_H": False} if not update_H else {}
    with config_context(transform_output="pandas"):
        for function in (dnmf.non_negative_factorization, decomposition.non_negative_factorization):
            W, components, n_iter = function(X, n_components=2, **start)
            assert type(W) is type(components) is np.ndarray
            assert isinstance(n_iter, int)


def test_signatures_of_the_function_are_equal():
    ours, theirs = (
        [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]
        for function in (dnmf.non_negative_factorization, decomposition.non_negative_factorization)
    )
    assert ours == theirs
