"""Requests per pass of a fit whose corpus and model are in a bucket of an S3 server.

Run from the root of the repository, with the extra ``slow``:

    PYTHONPATH=tests python benchmarks/requests.py

The server is moto, in a process of its own; the proxy of `tests/s3.py` counts. Each figure is the
difference of two fits that differ by four passes, so that it holds what recurs. For figures of
another version, install that version and run the same.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import s3

import dnmf

SHOWN = ("GET", "HEAD", "PUT", "POST", "DELETE")


def count(server, corpus, name, passes, **options):
    with server.count() as seen:
        options = {"tol": 0, "max_iter": passes, "random_state": 0} | options
        dnmf.NMF(3, checkpoint=f"{server.url}/{name}", **options).fit(corpus)
    return Counter(seen)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"dnmf {dnmf.__version__}")
    with s3.running() as server, TemporaryDirectory() as folder:
        for blocks in (8, 32):
            images = np.random.default_rng(0).random((8 * blocks, 8, 8))
            np.save(Path(folder, "x.npy"), images)
            url = f"{server.url}/{blocks}.zarr"
            corpus = dnmf.ingest(Path(folder, "x.npy"), url, block_rows=8)
            for every in (1, 100):
                fits = [
                    count(server, corpus, f"{blocks}-{every}-{n}", n, checkpoint_every=every)
                    for n in (5, 9)
                ]
                more = {key: (fits[1][key] - fits[0][key]) / 4 for key in SHOWN}
                print(f"{blocks} blocks, weights in every {every} passes: {more}")


if __name__ == "__main__":
    main()
