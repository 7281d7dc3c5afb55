"""What is saved is the model in hand, edits of its attributes included."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import dnmf
from dnmf.errors import CheckpointError, DataError
from dnmf.storage.checkpoint.checkpoint import open_checkpoint

RNG = np.random.default_rng(0)
X = RNG.random((60, 4)) @ RNG.random((4, 30))
LOSS = ("loss_history_", "reconstruction_err_", "n_iter_", "n_reads_", "energy_shares_")


def fitted(dtype=np.float64, **options):
    return dnmf.NMF(3, **{"random_state": 0, "tol": 0, "max_iter": 5} | options).fit(
        X.astype(dtype)
    )


def reload(model, path):
    model.save(path)
    assert dnmf.verify(path).findings == []
    return dnmf.load(path)


def sort(model):
    model.components_ = model.components_[[2, 0, 1]]


def normalise(model):
    model.components_ = model.components_ / model.components_.sum(axis=1, keepdims=True)


def sort_and_normalise(model):
    sort(model)
    normalise(model)


def replace_by_others(model):
    model.components_ = RNG.random((3, 30))


def change_a_pixel(model):
    model.components_[1, 4] *= 1.5


def drop_one(model):
    model.components_, model.n_components_ = model.components_[:2], 2


def add_one(model):
    model.components_ = np.vstack([model.components_, np.ones(30)])
    model.n_components_ = 4


def convert(model):
    model.components_ = model.components_.astype(np.float32)


EDITS = [sort, normalise, sort_and_normalise, replace_by_others, change_a_pixel, drop_one, add_one]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("edit", [*EDITS, convert])
def test_edited_components_are_what_is_saved(tmp_path, edit, dtype):
    model = fitted(dtype)
    edit(model)
    loaded = reload(model, tmp_path / "m")
    assert loaded.components_.dtype == model.components_.dtype
    assert (loaded.components_ == model.components_).all()
    assert loaded.n_components_ == loaded.n_components == len(model.components_)
    assert (loaded.transform(X) == model.transform(X)).all()
    again = reload(loaded, tmp_path / "again")
    assert (again.components_ == model.components_).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("edit", [sort, normalise, sort_and_normalise])
def test_the_loss_of_sorted_and_normalised_components_is_kept(tmp_path, edit, dtype):
    model = fitted(dtype)
    order = [0, 1, 2] if edit is normalise else [2, 0, 1]
    shares = model.energy_shares_[order]
    edit(model)
    loaded = reload(model, tmp_path / "m")
    assert (loaded.energy_shares_ == shares).all()
    assert (loaded.loss_history_ == model.loss_history_).all()
    assert loaded.reconstruction_err_ == model.reconstruction_err_
    assert loaded.stop_reason_ == model.stop_reason_


@pytest.mark.parametrize("edit", [replace_by_others, change_a_pixel, drop_one, add_one])
def test_a_loss_that_is_not_theirs_is_not_saved(tmp_path, edit):
    model = fitted()
    edit(model)
    loaded = reload(model, tmp_path / "m")
    assert not [name for name in LOSS if hasattr(loaded, name)]
    assert loaded.stop_reason_ == "edited"


@pytest.mark.parametrize(
    ("edit", "kept"), [(sort, True), (normalise, False), (sort_and_normalise, False)]
)
@pytest.mark.parametrize("penalty", [{"alpha_W": 0.01}, {"alpha_W": 0.0, "alpha_H": 0.01}], ids=str)
def test_a_penalty_determines_the_scale(tmp_path, edit, kept, penalty):
    model = fitted(**penalty)
    edit(model)
    assert hasattr(reload(model, tmp_path / "m"), "reconstruction_err_") == kept


def test_dark_components_are_rows_too(tmp_path):
    model = fitted()
    model.components_[1] = 0
    dark = reload(model, tmp_path / "dark")
    assert not hasattr(dark, "loss_history_")
    black = dnmf.NMF(3, random_state=0, tol=0, max_iter=2).fit(np.zeros((20, 30)))
    assert hasattr(reload(black, tmp_path / "black"), "loss_history_")


@pytest.mark.parametrize(
    "changed",
    [{"beta_loss": "kullback-leibler", "solver": "auto"}, {"alpha_W": 0.1}, {"missing": "ignore"}],
    ids=str,
)
def test_parameters_are_those_in_hand_too(tmp_path, changed):
    model = fitted().set_params(**changed, tol=0.25, max_iter=7)
    loaded = reload(model, tmp_path / "m")
    assert (loaded.tol, loaded.max_iter) == (0.25, 7)
    assert (loaded.transform(X) == model.transform(X)).all()
    assert loaded.score(X) == model.score(X)
    assert not hasattr(loaded, "reconstruction_err_"), "it was of another objective"


def test_the_shape_of_images_is_that_in_hand(tmp_path):
    model = fitted()
    model.image_shape_ = (5, 6)
    assert reload(model, tmp_path / "m").image_shape_ == (5, 6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_components_of_a_model_that_was_never_fitted(tmp_path, dtype):
    model = dnmf.NMF(3, beta_loss="kullback-leibler")
    model.components_ = (9 * RNG.random((3, 30))).astype(dtype)
    loaded = reload(model, tmp_path / "m")
    assert (loaded.components_ == model.components_).all()
    assert loaded.image_shape_ == (30,)
    assert loaded.transform(X).shape == (60, 3)
    loaded.partial_fit(X)
    assert (reload(loaded, tmp_path / "more").components_ == loaded.components_).all()
    from command_line import run

    assert json.loads(run("info", tmp_path / "m", "--json").stdout)["images"] is None
    run("info", tmp_path / "m")


@pytest.mark.parametrize(
    "components",
    [np.ones(30), -np.ones((3, 30)), np.full((3, 30), np.nan), np.ones((0, 30)), [["a"]]],
    ids=["1-d", "negative", "nan", "empty", "text"],
)
def test_components_that_are_none_are_refused(tmp_path, components):
    model = fitted()
    model.components_ = components
    with pytest.raises(DataError, match="components_"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_no_fit_goes_on_from_edited_components(tmp_path):
    checkpoint = tmp_path / "m"
    model = fitted(checkpoint=checkpoint)
    change_a_pixel(model)
    model.save(checkpoint, force=True)
    with pytest.raises(CheckpointError, match="start was"):
        fitted(checkpoint=checkpoint)
    assert (dnmf.load(checkpoint).components_ == model.components_).all()


class TestNames:
    NAMES = ("ä", "with space", "nul\0", *(f"p{i}" for i in range(27)))

    @pytest.fixture
    def frame(self):
        return pd.DataFrame(X, columns=self.NAMES)

    def check(self, loaded, frame):
        assert tuple(loaded.feature_names_in_) == self.NAMES
        loaded.transform(frame)
        with pytest.raises(ValueError, match="feature names should match"):
            loaded.transform(frame[frame.columns[::-1]])
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            loaded.transform(X)

    @pytest.mark.parametrize("edit", [lambda model: None, sort, replace_by_others])
    def test_are_saved(self, tmp_path, frame, edit):
        model = dnmf.NMF(3, random_state=0, tol=0, max_iter=2).fit(frame)
        edit(model)
        self.check(reload(model, tmp_path / "m"), frame)
        self.check(reload(dnmf.load(tmp_path / "m"), tmp_path / "again"), frame)

    @pytest.mark.parametrize("n_init", [1, 2])
    def test_are_in_checkpoints(self, tmp_path, frame, n_init):
        model = dnmf.NMF(3, random_state=0, tol=0, checkpoint=tmp_path / "m", n_init=n_init)
        model.set_params(max_iter=2).fit(frame)
        self.check(dnmf.load(tmp_path / "m"), frame)
        self.check(model.set_params(max_iter=4).fit(frame), frame)
        self.check(dnmf.load(tmp_path / "m"), frame)
        assert dnmf.load(tmp_path / "m").n_iter_ == 4
        assert dnmf.verify(tmp_path / "m").findings == []

    def test_are_in_sweeps(self, tmp_path, frame):
        rough = dnmf.NMF(random_state=0, tol=0.5, max_iter=2)
        sweep = dnmf.rank_sweep(frame, [1, 2], rough, n_init=1, checkpoint=tmp_path / "s")
        for found in (sweep, dnmf.load_sweep(tmp_path / "s")):
            self.check(found.best_model_, frame)

    def test_of_an_array_are_none(self, tmp_path, frame):
        model = dnmf.NMF(3, random_state=0, tol=0, max_iter=2).fit(frame).fit(X)
        assert not hasattr(reload(model, tmp_path / "m"), "feature_names_in_")
        assert open_checkpoint(tmp_path / "m").spec.feature_names is None

    def test_the_same_numbers_without_names_are_the_same_fit(self, tmp_path, frame):
        model = dnmf.NMF(3, random_state=0, tol=0, checkpoint=tmp_path / "m", max_iter=2)
        model.fit(frame)
        model.set_params(max_iter=3).fit(X)
        assert model.n_iter_ == 3
        assert not hasattr(model, "feature_names_in_")
        self.check(dnmf.load(tmp_path / "m"), frame)

    @pytest.mark.parametrize("damage", ["lost", "altered"])
    def test_that_are_damaged_are_named(self, tmp_path, frame, damage):
        dnmf.NMF(3, random_state=0, tol=0, max_iter=2).fit(frame).save(tmp_path / "m")
        file = tmp_path / "m/feature-names/c.0.0"
        content = file.read_bytes()
        file.unlink() if damage == "lost" else file.write_bytes(content[:-1] + b"\0")
        with pytest.raises(CheckpointError, match="feature-names"):
            dnmf.load(tmp_path / "m")
        assert "feature-names" in str(dnmf.verify(tmp_path / "m"))
