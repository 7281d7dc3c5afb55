"""Print a checksum of the bits of fits of every kind, to be compared before and after a change.

    python benchmarks/checksums.py > before.json
    python benchmarks/checksums.py --against before.json

A change that is meant to move code and nothing else leaves all of them the same, on one machine
with one set of library builds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy.sparse
import zarr

import dnmf

PIXELS = 64


def checksum(*arrays: Any) -> str:
    """Return the crc32 of the bytes of arrays, one after the other."""
    value = 0
    for array in arrays:
        whole = np.ascontiguousarray(array)
        value = zlib.crc32(
            whole.tobytes(), zlib.crc32(str((whole.dtype, whole.shape)).encode(), value)
        )
    return f"{value:08x}"


def of_model(model: dnmf.NMF, X: Any = None, **beside: Any) -> str:
    """Return the checksum of H, the losses and, with X, W."""
    parts = [model.components_]
    if hasattr(model, "loss_history_"):
        parts += [
            model.loss_history_,
            model.energy_shares_,
            [model.reconstruction_err_, model.n_reads_],
        ]
    if X is not None:
        parts.append(np.asarray(model.transform(X, **beside)))
    return checksum(*parts)


class Data:
    """Small images of every kind, drawn from one seed."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        parts = rng.gamma(0.3, size=(8, PIXELS))
        self.folder = folder
        self.floats = rng.gamma(0.5, size=(700, 8)) @ parts + 0.01 * rng.random((700, PIXELS))
        self.single = self.floats.astype(np.float32)
        self.bytes = np.minimum(20 * self.floats, 255).astype(np.uint8)
        self.mask = rng.random(self.floats.shape) < 0.1
        self.shared = np.repeat(rng.random((7, PIXELS)) < 0.2, 100, axis=0)
        self.weights = rng.integers(0, 3, 700).astype(float)
        self.holes = np.where(self.mask, np.nan, self.floats)
        self.wide = rng.gamma(0.5, size=(40, 3)) @ rng.gamma(0.3, size=(3, 70_000))
        np.save(folder / "images.npy", self.bytes)
        np.save(folder / "wide.npy", (50 * self.wide).clip(0, 60000).astype(np.uint16))
        self.corpus = dnmf.ingest(folder / "images.npy", folder / "images.zarr", block_rows=100)
        self.wide_corpus = dnmf.ingest(folder / "wide.npy", folder / "wide.zarr", block_rows=10)
        self.lazy = da.from_array(self.single, chunks=(150, PIXELS))
        self.stored = zarr.create_array(
            str(folder / "plain.zarr"), data=self.single, chunks=(90, PIXELS)
        )
        self.H = rng.random((5, PIXELS))


def nmf(d: int = 5, **parameters: Any) -> dnmf.NMF:
    """Make an estimator of a few passes."""
    return dnmf.NMF(d, **{"random_state": 0, "max_iter": 6, **parameters})


def fits(data: Data) -> Iterator[tuple[str, str]]:
    """Fit by every loss, start, penalty and way to leave pixels out."""
    kl = {"solver": "mu", "beta_loss": "kullback-leibler"}
    positive = data.floats + 0.05
    for name, model, X, aside in (
        ("float64", nmf(), data.floats, {}),
        ("float32", nmf(), data.single, {}),
        ("uint8", nmf(), data.bytes, {}),
        ("sparse", nmf(), scipy.sparse.csr_array(np.where(data.floats > 1, data.floats, 0)), {}),
        ("tol=0.01", nmf(tol=0.01), data.floats, {}),
        ("d=40", nmf(40), data.single, {}),
        ("nndsvd", nmf(init="nndsvd"), data.floats, {}),
        ("nndsvda", nmf(init="nndsvda"), data.floats, {}),
        ("nndsvdar", nmf(init="nndsvdar"), data.single, {}),
        ("custom", nmf(init="custom"), data.floats, {"H": data.H}),
        ("n_init", nmf(n_init=3), data.floats, {}),
        ("penalties", nmf(alpha_W=1e-3, alpha_H=1e-2, l1_ratio=0.5), data.floats, {}),
        ("kl", nmf(**kl), data.floats, {}),
        ("kl, penalties", nmf(**kl, alpha_W=1e-3, l1_ratio=0.5), data.single, {}),
        ("kl, mask", nmf(**kl), data.floats, {"mask": data.mask}),
        ("is", nmf(solver="mu", beta_loss="itakura-saito"), positive, {}),
        ("beta=1.5", nmf(solver="mu", beta_loss=1.5), data.floats, {}),
        ("beta=3", nmf(solver="mu", beta_loss=3), data.floats, {}),
        ("beta=-1", nmf(solver="mu", beta_loss=-1.0), positive, {}),
        ("mu, frobenius", nmf(solver="mu"), data.floats, {}),
        ("mask", nmf(), data.single, {"mask": data.mask}),
        ("shared mask", nmf(), data.floats, {"mask": data.shared}),
        ("missing", nmf(missing="ignore"), data.holes, {}),
        ("sample_weight", nmf(), data.floats, {"sample_weight": data.weights}),
        (
            "minibatch",
            dnmf.MiniBatchNMF(5, random_state=0, max_iter=6, beta_loss=1),
            data.floats,
            {},
        ),
    ):
        model.fit(X, **aside)
        mask = {"mask": aside["mask"]} if "mask" in aside else {}
        yield name, of_model(model, X, **mask)
        beside = {name: value for name, value in aside.items() if name != "H"}
        yield (
            f"{name}: score",
            checksum(model.score(X, **beside), model.reconstruct_error(X, **mask)),
        )
    model = nmf(warm_start=True).fit(data.floats)
    yield "warm_start", of_model(model.fit(data.floats))
    for name, more in (("frobenius", {}), ("kl", kl)):
        stream = nmf(**more)
        for first in range(0, 700, 200):
            stream.partial_fit(data.floats[first : first + 200])
        yield f"partial_fit, {name}", of_model(stream, data.floats)
        yield (
            f"partial_fit after fit, {name}",
            of_model(nmf(**more).fit(data.floats).partial_fit(data.single)),
        )


def engines(data: Data, where: str) -> Iterator[tuple[str, str]]:
    """Fit what is not in memory, on whatever computes now."""
    for name, X in (("corpus", data.corpus), ("dask", data.lazy), ("zarr", data.stored)):
        model = nmf().fit(X)
        yield f"{where}: {name}", of_model(model, X)
        yield (
            f"{where}: {name}, errors",
            checksum(model.reconstruct_error(X), model.reconstruct_error(X, per="pixel")),
        )
    yield f"{where}: corpus, mask", of_model(nmf().fit(data.corpus, mask=data.mask))
    yield f"{where}: wide corpus", of_model(nmf(3).fit(data.wide_corpus))
    yield f"{where}: nndsvda", of_model(nmf(init="nndsvda").fit(data.corpus))
    yield f"{where}: sweep", of_sweep(dnmf.rank_sweep(data.corpus, [3, 4], nmf(max_iter=4)))
    stream = nmf().partial_fit(data.corpus)
    yield f"{where}: partial_fit", of_model(stream)


def of_sweep(found: Any) -> str:
    """Return the checksum of the models of a sweep and of its table."""
    models = [of_model(model) for model in found.models_.values()]
    words = json.dumps([found.table, found.reason_, found.n_reads_], sort_keys=True)
    return checksum(np.frombuffer("".join([*models, words]).encode(), np.uint8))


def sweeps(data: Data) -> Iterator[tuple[str, str]]:
    """Compare numbers of components, in memory and on disk."""
    yield "sweep", of_sweep(dnmf.rank_sweep(data.single, [2, 4, 6], nmf()))
    yield (
        "sweep, mask",
        of_sweep(dnmf.rank_sweep(data.single, [2, 4], nmf(), mask=data.mask, n_init=2)),
    )
    kl = nmf(solver="mu", beta_loss="kullback-leibler")
    yield "sweep, kl", of_sweep(dnmf.rank_sweep(data.single, [2, 3], kl, n_init=2, holdout=0.2))
    yield "sweep, no holdout", of_sweep(dnmf.rank_sweep(data.single, [2, 3], nmf(), holdout=0))
    place = data.folder / "sweep"
    yield (
        "sweep, checkpoint",
        of_sweep(dnmf.rank_sweep(data.corpus, [3, 4], nmf(max_iter=4), checkpoint=str(place))),
    )
    yield "load_sweep", of_sweep(dnmf.load_sweep(place))


def checkpoints(data: Data) -> Iterator[tuple[str, str]]:
    """Interrupt fits and go on with them; digest what is on disk."""

    def stop_after_two(state: Any) -> None:
        if state.n_iter == 2:
            raise KeyboardInterrupt

    for name, more in (("checkpoint", {}), ("checkpoint_every=3", {"checkpoint_every": 3})):
        place = data.folder / f"{name}.model"
        with contextlib.suppress(KeyboardInterrupt):
            nmf(tol=0, checkpoint=place, on_pass=stop_after_two, **more).fit(data.corpus)
        yield f"{name}: unfinished", of_model(dnmf.load(place))
        model = nmf(tol=0, checkpoint=place, **more).fit(data.corpus)
        yield name, of_model(model, data.corpus)
        yield f"{name}: stored", of_stored(place)
        yield (
            f"{name}: resumed",
            of_model(nmf(tol=0, checkpoint=place, resume_from=5, **more).fit(data.corpus)),
        )
    place = data.folder / "starts.model"
    yield "checkpoint, n_init", of_model(nmf(n_init=2, checkpoint=place).fit(data.single))
    saved = data.folder / "saved.model"
    nmf().fit(data.floats).save(saved)
    yield "saved", of_model(dnmf.load(saved), data.floats) + of_stored(saved)
    yield "corpus: stored", of_stored(data.folder / "images.zarr")
    yield "corpus: fingerprint", str(data.corpus.fingerprint)


def of_stored(path: Path) -> str:
    """Return the checksum of all files of a store, names of weights and what names them apart."""
    parts = []
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        name = "/".join(
            part.rsplit("-", 1)[0] if part.startswith("weights-") else part
            for part in file.relative_to(path).parts
        )
        content: Any = file.read_bytes()
        if file.name == "zarr.json":
            record = json.loads(content)
            known = record.get("attributes", {}).get("dnmf", {})
            for key in ("weights", "record_crc32c"):
                known.pop(key, None)
            content = json.dumps(record, sort_keys=True).encode()
        parts.append((name, zlib.crc32(content)))
    return checksum(np.frombuffer(json.dumps(sorted(parts)).encode(), np.uint8))


def everything(folder: Path) -> Iterator[tuple[str, str]]:
    """Fit everything."""
    from distributed import Client, LocalCluster

    data = Data(folder)
    yield from fits(data)
    yield from sweeps(data)
    yield from checkpoints(data)
    with dask.config.set(scheduler="synchronous"):
        yield from engines(data, "synchronous")
    yield from engines(data, "threads")
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs="ERROR"
    )
    with cluster, Client(cluster):
        yield from engines(data, "cluster")


def main() -> None:
    """Print the checksums, or those that differ from a file of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="what an earlier run printed")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = dict(everything(Path(folder)))
    if arguments.against is None:
        print(json.dumps(found, indent=1))
        return
    known = json.loads(arguments.against.read_text())
    wrong = [name for name in {**known, **found} if known.get(name) != found.get(name)]
    print("\n".join([*wrong, f"{len(wrong)} of {len(known)} differ"]))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
