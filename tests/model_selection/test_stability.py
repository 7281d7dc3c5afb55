"""Stability of components: silhouettes over fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from dnmf.model_selection.stability import matching, silhouettes

seeds = st.integers(0, 10**6)


def components(rng, d, p=60):
    """Draw components that resemble parts of images: most pixels of each are dark."""
    return rng.gamma(0.3, size=(d, p)) + 1e-6


def noisy(rng, H, noise):
    """Return components with noise, in another order and of other sizes, and that order."""
    order = rng.permutation(len(H))
    sizes = rng.uniform(0.1, 10, (len(H), 1))
    return (sizes * H * rng.lognormal(0, noise, H.shape))[order], order


@given(seeds, st.integers(1, 12), st.integers(2, 5))
def test_equal_components_in_another_order_and_size_have_silhouette_1(seed, d, fits):
    rng = np.random.default_rng(seed)
    H = components(rng, d)
    found = silhouettes([H, *(noisy(rng, H, 0)[0] for _ in range(fits - 1))])
    np.testing.assert_allclose(found, np.ones(d))


@given(seeds, st.integers(2, 8), st.integers(2, 5), st.floats(0.01, 0.5))
def test_equals_the_silhouettes_of_scikit_learn(seed, d, fits, noise):
    rng = np.random.default_rng(seed)
    H = components(rng, d)
    others = [noisy(rng, H, noise) for _ in range(fits - 1)]
    everything = np.concatenate([H, *(fit for fit, _ in others)])
    labels = np.concatenate([np.arange(d), *(order for _, order in others)])
    unit = everything / np.linalg.norm(everything, axis=1, keepdims=True)
    distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, 0)
    each = silhouette_samples(np.maximum(distances, 0), labels, metric="precomputed")
    expected = [each[labels == j].mean() for j in range(d)]
    np.testing.assert_allclose(silhouettes([H, *(fit for fit, _ in others)]), expected, atol=1e-9)


@given(seeds, st.integers(1, 8), st.floats(0, 3))
def test_the_order_of_components_in_other_fits_does_not_matter(seed, d, noise):
    rng = np.random.default_rng(seed)
    H = components(rng, d)
    fits = [noisy(rng, H, noise)[0] for _ in range(3)]
    other = [fits[0], *(fit[rng.permutation(d)] for fit in fits[1:])]
    np.testing.assert_allclose(silhouettes(other), silhouettes(fits), atol=1e-9)
    order = rng.permutation(d)  # that of the first is the order of the result
    reordered = silhouettes([fits[0][order], *fits[1:]])
    np.testing.assert_allclose(reordered, silhouettes(fits)[order], atol=1e-9)


@given(seeds)
def test_more_noise_lowers_silhouettes(seed):
    rng = np.random.default_rng(seed)
    H = components(rng, 6, 400)
    means = [silhouettes([H, *(noisy(rng, H, m)[0] for _ in range(3))]).mean() for m in (0.1, 1, 3)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.9


def test_unrelated_components_are_not_stable():
    rng = np.random.default_rng(0)
    found = silhouettes([components(rng, 10, 500) for _ in range(4)])
    assert (np.abs(found) < 0.2).all()


def test_one_unstable_component_is_found_among_others():
    rng = np.random.default_rng(0)
    H = components(rng, 6, 300)
    fits = []
    for _ in range(4):
        fit = noisy(rng, H, 0.1)[0] if fits else H.copy()
        place = int(matching(H[2:3] / np.linalg.norm(H[2]), fit)[0])
        fit[place] = components(rng, 1, 300)
        fits.append(fit)
    found = silhouettes(fits)
    assert found.argmin() == 2
    assert found[2] < 0.3 < 0.8 < np.delete(found, 2).min()


def test_a_single_component_has_its_mean_cosine():
    rng = np.random.default_rng(0)
    fits = [components(rng, 1) for _ in range(4)]
    unit = [H[0] / np.linalg.norm(H) for H in fits]
    cosines = [unit[i] @ unit[j] for i in range(4) for j in range(4) if i != j]
    np.testing.assert_allclose(silhouettes(fits), [np.mean(cosines)])


@pytest.mark.parametrize("d", [1, 2, 5])
def test_empty_components_have_silhouette_0(d):
    rng = np.random.default_rng(0)
    H = components(rng, d)
    H[-1] = 0
    found = silhouettes([H, H[::-1], H])
    assert found[-1] == 0
    np.testing.assert_allclose(found[:-1], 1)
    assert silhouettes([0 * H, 0 * H]).tolist() == [0] * d


@given(seeds, st.integers(2, 5))
def test_repeated_components_have_silhouette_0(seed, fits):
    rng = np.random.default_rng(seed)
    H = components(rng, 3)
    H[2] = 3 * H[1]
    found = silhouettes([noisy(rng, H, 0)[0] if i else H for i in range(fits)])
    np.testing.assert_allclose(found, [1, 0, 0], atol=1e-3)
