"""
Which cells light up together in a film?
========================================

Each component of a film is a set of pixels that change together, such as a cell, and its weights
are the course of its brightness. The film is fitted from a TIFF stack, frame by frame.
"""

# sphinx_gallery_thumbnail_number = 1
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import tifffile
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.data import immunohistochemistry

import dnmf

# %%
# No package ships a film, so this one is made: of the outlines of real nuclei, from scikit-image's
# picture of tissue, which flare up and fade like cells with a calcium dye. To the light of the
# cells comes a constant background, and the noise of counted photons.

rng = np.random.default_rng(0)
nuclei = ndimage.gaussian_filter(rgb2hed(immunohistochemistry())[:160, 340:500, 0], 1.5)
labels, n_found = ndimage.label(nuclei > np.quantile(nuclei, 0.85))
sizes = ndimage.sum_labels(np.ones_like(nuclei), labels, range(1, n_found + 1))
n_cells, n_frames = 12, 600
chosen = 1 + np.argsort(-sizes)[1 : n_cells + 1]
shapes = np.array([ndimage.gaussian_filter((labels == j) * 1.0, 1) for j in chosen])
flares = rng.random((n_frames, n_cells)) < 0.012
fading = np.exp(-np.arange(80) / 15)
traces = np.array([np.convolve(cell, fading)[:n_frames] for cell in flares.T]).T
film = rng.poisson(12 * (traces @ shapes.reshape(n_cells, -1)) + 6).reshape(n_frames, 160, 160)

# %%
# The stack becomes a corpus, which is read in blocks of frames, and so does not have to fit into
# memory. A component for each cell, and one for the background.

with TemporaryDirectory() as folder:
    stack = Path(folder) / "film.tif"
    tifffile.imwrite(stack, film.astype(np.uint16))
    X = dnmf.ingest(stack, Path(folder) / "film.zarr")
    print(f"{len(X)} frames of {X.image_shape}, {X.dtype}")
    model = dnmf.NMF(n_components=n_cells + 1, random_state=0).fit(X)
    W = np.asarray(model.transform(X))

# %%
# The background is the component that is there in all frames; of the others each is one cell.

found = np.argsort(np.median(W, axis=0) / W.max(axis=0))[:n_cells]
found = found[np.argsort(W[:, found].argmax(axis=0))]
likeness = np.corrcoef(W[:, found].T, traces.T)[:n_cells, n_cells:].max(axis=1)
print(f"traces found against those made: correlation {likeness.min():.3f} or more")

colors = plt.colormaps["turbo"](np.linspace(0.05, 0.95, n_cells))[:, :3]
cells = model.components_[found] / model.components_[found].max(axis=1, keepdims=True)
figure, panels = plt.subplot_mosaic("ACC;BCC", figsize=(8, 5.2), layout="constrained")
frame, courses, parts = panels.values()
frame.imshow(film[W[:, found[3]].argmax()], cmap="gray")
frame.set_title("one frame")
strongest = cells.max(axis=0)[:, None] * colors[cells.argmax(axis=0)]
parts.imshow(strongest.reshape(160, 160, 3))
parts.set_title("components")
for level, (j, color) in enumerate(zip(found, colors, strict=True)):
    courses.plot(W[:, j] / W[:, j].max() - level, color=color, linewidth=1)
courses.set_title("their weights in each frame")
for axes in (frame, parts, courses):
    axes.set_axis_off()
plt.show()
