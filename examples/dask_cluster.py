"""
Does a cluster give the same result?
====================================

Yes, the same bits: while a Dask client is active, :class:`dnmf.NMF` sends each pass to its
workers, and what they send back is added up in an order that does not depend on them.
"""

# sphinx_gallery_thumbnail_number = 1
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from dask.distributed import Client, LocalCluster, get_task_stream

from dnmf import NMF, ingest
from dnmf.data import digits

# %%
# Two workers on this machine. They are threads here, so that this page runs in a notebook and
# as a script. ``LocalCluster(n_workers=2)`` makes processes; a script then needs
# ``if __name__ == "__main__":`` around all that it does. A client of a real cluster,
# ``Client("tcp://scheduler:8786")``, is used in the same way.

PARAMETERS = {"n_components": 49, "random_state": 0, "tol": 0, "max_iter": 4}

with TemporaryDirectory() as folder:
    images = np.tile(digits(), (4, 1)).reshape(-1, 28, 28)
    X = ingest(images, Path(folder) / "digits.zarr", block_rows=1000)
    print(X)
    alone = NMF(**PARAMETERS).fit(X)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster),
        get_task_stream() as tasks,
    ):
        together = NMF(**PARAMETERS).fit(X)

print(f"without a cluster {alone.reconstruction_err_:,.4f}")
print(f"with two workers  {together.reconstruction_err_:,.4f}")
print("same bits:", alone.components_.tobytes() == together.components_.tobytes())

# %%
# What the workers did: each box is a task, which reads blocks and returns sums over them. The
# small tasks before, on the sample that the fit starts from, are left out. In the gaps this program
# updates H. A pass is so short here that the worker which got H first does most of it, before the
# scheduler moves tasks to the other one.

ran = sorted(
    (step["start"], step["stop"], task["worker"])
    for task in tasks.data
    for step in task["startstops"]
    if step["action"] == "compute"
)
pauses = np.diff([start for start, *_ in ran])
ran = ran[pauses.argmax() + 1 :]
workers = sorted({worker for *_, worker in ran})
began = ran[0][0]
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
for start, stop, worker in ran:
    color = plt.colormaps["viridis"](0.3 + 0.4 * workers.index(worker))
    bar = (1000 * (start - began), 1000 * (stop - start))
    axes.broken_barh([bar], (workers.index(worker) - 0.35, 0.7), color=color, linewidth=0)
axes.set_yticks(range(len(workers)), [f"worker {i + 1}" for i in range(len(workers))])
axes.set(
    xlabel="milliseconds",
    title=f"{len(ran)} tasks of {together.n_iter_} passes",
)
axes.tick_params(length=0)
axes.spines[["top", "left", "right"]].set_visible(False)
plt.show()
