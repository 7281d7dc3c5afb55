"""A Dask client from the flags of a command: none, a cluster of this machine's, or a given one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnmf.errors import ClusterError, ParameterError


@contextmanager
def cluster(
    workers: int | None = None,
    memory_limit: str | None = None,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
) -> Iterator[str]:
    """Make the cluster that the flags ask for the active one.

    Parameters
    ----------
    workers : int, optional
        Start a cluster of so many single-threaded processes, on the loopback interface alone.
    memory_limit : str, optional
        Of each of those workers, with a unit (``2GB``).
    scheduler : str, optional
        Address of a running scheduler.
    scheduler_file : str, optional
        File in which a running scheduler has left its address.

    Yields
    ------
    str
        What computes, in words. Without any flag that is this process's threads.
    """
    given = [flag for flag in (workers, scheduler, scheduler_file) if flag is not None]
    if len(given) > 1:
        raise ParameterError(
            "--workers, --scheduler and --scheduler-file exclude each other; give one of them"
        )
    if memory_limit is not None and workers is None:
        raise ParameterError("--memory-limit is for the workers of --workers N; give both")
    if not given:
        from dask.system import CPU_COUNT

        yield f"{CPU_COUNT} threads of this process"
        return

    from distributed import Client, LocalCluster

    if workers is not None:
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=memory_limit or "auto",
                dashboard_address="127.0.0.1:0",
                silence_logs="ERROR",
            ) as local,
            Client(local),
        ):
            yield f"{workers} worker processes on this machine"
        return
    if scheduler_file is not None and not Path(scheduler_file).exists():
        raise ClusterError(
            f"{scheduler_file} does not exist; start `dask scheduler --scheduler-file "
            f"{scheduler_file}` first"
        )
    try:
        client = Client(scheduler, scheduler_file=scheduler_file, set_as_default=True)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler or scheduler_file} ({error}); "
            "start one with `dask scheduler`, and workers with `dask worker`"
        ) from error
    with client:
        client.wait_for_workers(1)
        yield f"the cluster at {client.scheduler_info()['address']}"
