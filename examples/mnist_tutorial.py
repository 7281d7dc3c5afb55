"""
What are handwritten digits made of?
====================================

Of strokes. NMF finds them from the images alone, without being told what a stroke or a digit is:
with few parts it finds blurred shapes, with many it finds pieces that fit together sharply.
"""

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np

from dnmf import NMF
from dnmf.data import digits

# %%
# X has a row for each image: 5,000 of the 10,000 digits that come with dnmf, of 28 x 28 pixels.
# To take your own, see :func:`dnmf.ingest`; nothing else on this page changes.

X = digits()[:5000]
print(X.shape, X.dtype)

# %%
# A fit finds H, the d parts, and W, how much of each part each image holds, so that ``X ~ W H``.
# Nothing is ever subtracted: no number in W or H is negative. That is why parts look like parts.
# The import of ``NMF`` is the only line which differs from the same program on scikit-learn.

models, weights = {}, {}
for d in (9, 100, 225):
    models[d] = NMF(n_components=d, tol=1e-2, random_state=0)
    weights[d] = models[d].fit_transform(X)
    share = models[d].reconstruction_err_ / np.linalg.norm(X.astype(np.float32))
    print(f"d = {d}: W {weights[d].shape}, H {models[d].components_.shape}, error {share:.0%}")

# %%
# Some of the parts. Nine of them have to serve all digits, so each is a large, blurred shape; of
# 225 each is a piece of a stroke, a few pixels long.


def mosaic(images: np.ndarray) -> np.ndarray:
    """Put a square number of images side by side, each as bright as its maximum allows."""
    side = int(len(images) ** 0.5)
    tiles = (images / images.max(axis=1, keepdims=True)).reshape(side, side, 28, 28)
    return np.pad(tiles, ((0, 0), (0, 0), (1, 1), (1, 1))).swapaxes(1, 2).reshape(side * 30, -1)


figure, panels = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
for axes, (d, model) in zip(panels, models.items(), strict=True):
    axes.imshow(mosaic(model.components_[:9]), cmap="magma", interpolation="none")
    axes.set_title("all 9 parts" if d == 9 else f"9 of {d} parts")
    axes.set_axis_off()

# %%
# The images, made again from their parts: ``W @ H``. The more parts, the sharper the digits; what
# it costs is that each image is then told by more numbers. :doc:`choose_rank` is about that choice.

rows = {"original": X[:6]}
rows |= {f"{d} parts": weights[d][:6] @ models[d].components_ for d in models}
figure, grid = plt.subplots(4, 6, figsize=(8, 5), layout="constrained")
for line, (name, images) in zip(grid, rows.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, image in zip(line, images, strict=True):
        axes.imshow(image.reshape(28, 28), cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[], frame_on=False)
plt.show()
