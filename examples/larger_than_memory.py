"""
How much memory does a large corpus take?
=========================================

As much as a few of its blocks, whatever its size: a pass reads block after block, and keeps
only sums. This page fits 1.2 GB of images and watches the memory of the process.
"""

# sphinx_gallery_thumbnail_number = 1
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import psutil

import dnmf
from dnmf.data import digits

# %%
# A thread reads the clock and the memory of this process five times a second.

process = psutil.Process()
watched: list[tuple[float, float]] = []
done = threading.Event()


def watch() -> None:
    """Note time and resident memory, in MB."""
    while not done.wait(0.2):
        watched.append((time.monotonic(), process.memory_info().rss / 1e6))


# %%
# The images: 48 x 8,000 digits, each picture times a brightness of its own. They are a Dask array,
# made block by block while :func:`dnmf.ingest` writes them as a corpus; at no time are they all in
# memory.

few = digits()[:8000] / np.float32(255)


def brighten(few: np.ndarray, block_info: dict) -> np.ndarray:
    """Make one block of images."""
    rng = np.random.default_rng(block_info[None]["chunk-location"])
    return few * rng.uniform(0.5, 1, (len(few), 1)).astype(np.float32)


images = da.concatenate([da.from_array(few, chunks=(8000, 784))] * 48).map_blocks(
    brighten, dtype=np.float32
)
moments = {}
with TemporaryDirectory() as folder:
    thread = threading.Thread(target=watch)
    thread.start()
    moments["ingest"] = time.monotonic()
    X = dnmf.ingest(images, Path(folder) / "images.zarr", codec="none")
    print(X)
    moments["fit"] = time.monotonic()
    model = dnmf.NMF(n_components=16, max_iter=4, tol=0, random_state=0).fit(X)
    moments["end"] = time.monotonic()
    done.set()
    thread.join()
size = X.nbytes / 1e6
seconds, memory = np.array(watched).T
memory -= memory[0]
print(f"X has {size:,.0f} MB; the process grew by {memory.max():,.0f} MB")

# %%
# Memory over time, beyond what Python and its libraries took before, beside the size of X.

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
axes.fill_between(seconds - seconds[0], memory, color="#31688e", alpha=0.85, linewidth=0)
axes.axhline(size, color="#d55e00", linewidth=2)
axes.text(0, size * 1.02, "size of X", color="#d55e00", fontsize=12, va="bottom")
for name in ("ingest", "fit"):
    start = moments[name] - seconds[0]
    axes.axvline(start, color="#767676", linewidth=0.8)
    axes.text(start, size * 0.9, f" {name}", color="#767676", fontsize=11)
axes.set(
    xlabel="seconds", ylabel="memory that was added, MB", ylim=(0, size * 1.12), xlim=(-0.1, None)
)
axes.spines[["top", "right"]].set_visible(False)
plt.show()
