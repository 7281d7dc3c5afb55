"""A fit on workers that a batch system starts as jobs of their own, by dask-jobqueue.

    pip install dask-jobqueue
    python examples/jobqueue.py CORPUS MODEL COMPONENTS [--jobs N] [--adapt] [--queue NAME]

The driver is this program: run it where it may stay, in a job or on the login node. CORPUS and
MODEL must be on a file system that all nodes share. With --adapt jobs come when there is work and
go when there is none; their number changes no bit of the result. Kill this program and run the
same line again: the fit goes on from its last pass. `PBSCluster` and `LSFCluster` take the same
arguments as `SLURMCluster`.
"""

import argparse

from dask_jobqueue import SLURMCluster
from distributed import Client

from dnmf import NMF, open_corpus


def workers_as_jobs(queue: str | None, interface: str | None) -> SLURMCluster:
    """Describe a job: one worker, which ends by itself before its walltime ends it."""
    return SLURMCluster(
        queue=queue,
        interface=interface,
        cores=1,
        processes=1,
        memory="4GB",
        walltime="04:00:00",
        worker_extra_args=["--lifetime", "235m", "--lifetime-stagger", "4m"],
        job_script_prologue=["export OMP_NUM_THREADS=1"],
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("model")
    parser.add_argument("components", type=int)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--adapt", action="store_true")
    parser.add_argument("--queue")
    parser.add_argument("--interface", help="network of the nodes, such as ib0")
    parser.add_argument("--max-iter", type=int, default=200)
    given = parser.parse_args()
    with workers_as_jobs(given.queue, given.interface) as cluster, Client(cluster):
        if given.adapt:
            cluster.adapt(minimum_jobs=0, maximum_jobs=given.jobs)
        else:
            cluster.scale(jobs=given.jobs)
        nmf = NMF(given.components, random_state=0, checkpoint=given.model, max_iter=given.max_iter)
        nmf.fit(open_corpus(given.corpus))
    print(f"{given.model}: {nmf.n_iter_} passes, error {nmf.reconstruction_err_:.6g}")


if __name__ == "__main__":
    main()
