"""Options of file systems for the workers of a cluster, for as long as a computation runs.

They are sent as a plugin, which Dask also gives to workers that come later. No task, graph or
result holds them. On the network they are protected by TLS if the cluster uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from distributed import WorkerPlugin

from dnmf._access import PROCESS, Places, drop_options, known_options, take_options

if TYPE_CHECKING:
    from distributed import Client


class OptionsPlugin(WorkerPlugin):
    """Options that a worker has from its set-up until its tear-down.

    Parameters
    ----------
    places : dict
        Options by the root of URLs.
    """

    def __init__(self, places: Places) -> None:
        self.name = f"dnmf-options-{uuid4().hex}"
        self._places, self._process = places, PROCESS

    def setup(self, worker: Any) -> None:
        """Take the options, unless the worker is a thread of the process that has them."""
        if self._process != PROCESS:
            take_options(self.name, self._places)

    def teardown(self, worker: Any) -> None:
        """Forget the options."""
        drop_options(self.name)


@contextmanager
def options_on_workers(client: Client) -> Iterator[None]:
    """Give the options that this process has to the workers of a client, until the block ends."""
    if not (places := known_options()):
        yield
        return
    plugin = OptionsPlugin(places)
    with suppress(OSError):  # the scheduler is lost, as whoever asks it next will say
        client.register_plugin(plugin)
    try:
        yield
    finally:
        if client.status == "running":
            with suppress(OSError):
                client.unregister_worker_plugin(plugin.name)
