"""Models that go on with images that were appended to their corpus."""

from __future__ import annotations

import numpy as np
import pytest

import dnmf
from dnmf.errors import DataError
from dnmf.estimators.continued import learn_new_images


@pytest.fixture
def grown(digits, tmp_path):
    """Return a model of 400 digits, and a corpus that says that it was these and then 700."""
    first = dnmf.ingest(digits[:400], tmp_path / "first", block_rows=128)
    corpus = dnmf.ingest(digits, tmp_path / "all", block_rows=128)
    corpus.generations = [(400, first.fingerprint), (700, corpus.fingerprint)]
    dnmf.NMF(5, random_state=0, tol=0.01, checkpoint=tmp_path / "m").fit(first)
    return dnmf.load(tmp_path / "m"), corpus


def test_only_new_images_are_read(grown, digits, monkeypatch):
    model, corpus = grown
    by_hand = dnmf.load(corpus.path.replace("/all", "/m")).partial_fit(digits[400:])
    assert learn_new_images(model, corpus) == 300
    assert model.stop_reason_ == "partial_fit"
    np.testing.assert_allclose(model.components_, by_hand.components_, rtol=0.1, atol=0.1)


def test_what_was_learnt_is_not_new_any_more(grown, tmp_path):
    model, corpus = grown
    learn_new_images(model, corpus)
    model.save(tmp_path / "again")
    again = dnmf.load(tmp_path / "again")
    assert learn_new_images(again, corpus) == 0
    assert (again.components_ == model.components_.astype(np.float32)).all()


def test_masked_pixels_of_new_images_have_no_influence(grown, digits, tmp_path):
    model, corpus = grown
    mask = np.zeros(corpus.shape, bool)
    mask[400:, :100] = True
    other = dnmf.ingest(np.where(mask, 255 - digits, digits), tmp_path / "other", block_rows=128)
    other.generations = [corpus.generations[0], (700, other.fingerprint)]
    twin = dnmf.load(tmp_path / "m")
    learn_new_images(model, corpus, mask)
    learn_new_images(twin, other, mask)
    assert (model.components_ == twin.components_).all()


def test_a_model_of_other_images_is_refused(grown):
    model, corpus = grown
    corpus.generations = corpus.generations[1:]
    before = model.components_.copy()
    with pytest.raises(DataError, match="unknown which images are new"):
        learn_new_images(model, corpus)
    assert (model.components_ == before).all()
