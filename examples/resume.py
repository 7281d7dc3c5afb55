"""
What is lost when a fit is killed?
==================================

At most the pass that was running. With a checkpoint the same call goes on where the fit was, and
ends with the same bits as a fit that nobody disturbed.
"""

# sphinx_gallery_thumbnail_number = 1
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np

from dnmf import NMF, ingest, load
from dnmf.data import digits

# %%
# The program: a fit that keeps its state in ``digits.model``. To have it killed, it sends itself
# SIGKILL, which no program can catch, after the pass that it is told.

PROGRAM = """
import os, signal, sys
import dnmf

def on_pass(state):
    if state.n_iter == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

X = dnmf.open_corpus(sys.argv[1])
dnmf.NMF(16, random_state=0, max_iter=12, tol=0, checkpoint=sys.argv[2], on_pass=on_pass).fit(X)
"""

# %%
# It is run three times: killed after pass 3, killed after pass 8, and left to come to its end.

passes = [0]
with TemporaryDirectory() as folder:
    X = ingest(digits()[:4000].reshape(-1, 28, 28), Path(folder) / "digits.zarr")
    path = Path(folder) / "digits.model"
    for fatal in (3, 8, 0):
        ended = subprocess.run([sys.executable, "-c", PROGRAM, X.path, path, str(fatal)])
        model = load(path)
        passes.append(model.n_iter_)
        how = "killed" if ended.returncode == -signal.SIGKILL else "ended by itself"
        print(f"{how} after pass {model.n_iter_}, error {model.reconstruction_err_:,.2f}")
    alone = NMF(16, random_state=0, max_iter=12, tol=0).fit(X)

# %%
# The last fit is one without interruptions, for comparison. All bits of all components are the
# same.

print("same bits:", alone.components_.tobytes() == model.components_.tobytes())

# %%
# The course of the error. Each run in a colour of its own.

errors = np.sqrt(2 * model.loss_history_)
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
axes.plot(1 + np.arange(12), np.sqrt(2 * alone.loss_history_), color="#cccccc", linewidth=9)
for first, last, color in zip(
    passes[:-1], passes[1:], ("#31688e", "#35b779", "#d55e00"), strict=True
):
    axes.plot(np.arange(first, last) + 1, errors[first:last], "o-", color=color, markersize=8)
    end = "killed" if last < 12 else "done"
    axes.annotate(
        end, (last, errors[last - 1]), (0, 16), textcoords="offset points", color=color, fontsize=13
    )
axes.set(xlabel="pass", ylabel="error", title="three runs, over one that was not disturbed (grey)")
axes.set_xticks(range(1, 13))
axes.ticklabel_format(axis="y", useOffset=False)
axes.spines[["top", "right"]].set_visible(False)
plt.show()
