"""
Can a picture be filled in where pixels are missing?
====================================================

Yes, if the picture repeats itself: parts are learned from the pixels that are there, and make the
others. Missing pixels are named by a mask and have no influence on the fit.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
from skimage.data import chelsea

from dnmf import NMF

# %%
# A cat, from scikit-image, of whose pixels two thirds are lost.

cat = chelsea()[:, 60:388].astype(np.float32) / 255
lost = np.random.default_rng(0).random(cat.shape[:2]) < 0.67
print(f"{cat.shape}: {lost.mean():.0%} of the pixels are missing")

# %%
# X is made of all patches of 12 x 12 pixels at steps of 4, in three colours; where a pixel is
# missing, its three colours are.

SIDE, STEP = 12, 4


def patches(picture: np.ndarray) -> np.ndarray:
    """Cut an array of shape (h, w, colours) into rows, one for each patch."""
    views = np.lib.stride_tricks.sliding_window_view(picture, (SIDE, SIDE), axis=(0, 1))
    return views[::STEP, ::STEP].reshape(-1, picture.shape[2] * SIDE * SIDE)


X, mask = patches(cat), patches(np.repeat(lost[..., None], 3, axis=2))
model = NMF(n_components=30, alpha_W=1e-4, tol=1e-2, random_state=0).fit(X, mask=mask)
filled = model.inverse_transform(model.transform(X, mask=mask))
print(f"X {X.shape}, {model.n_iter_} passes")

# %%
# A pixel is in up to 9 patches; the picture takes their mean where pixels were missing.

total = np.zeros_like(cat)
count = np.zeros(cat.shape[:2])
columns = (cat.shape[1] - SIDE) // STEP + 1
for number, patch in enumerate(filled.reshape(-1, 3, SIDE, SIDE)):
    top, left = number // columns * STEP, number % columns * STEP
    total[top : top + SIDE, left : left + SIDE] += np.moveaxis(patch, 0, -1)
    count[top : top + SIDE, left : left + SIDE] += 1
again = np.where(lost[..., None], total / np.maximum(count, 1)[..., None], cat).clip(0, 1)
error = np.sqrt(np.mean((again - cat)[lost & (count > 0)] ** 2))
print(f"missing pixels are off by {error:.3f}, of a range of 1")

there = np.where(lost[..., None], 0, cat)
figure, panels = plt.subplot_mosaic("AAB;AAC", figsize=(8, 5.1), layout="constrained")
shown = {"filled in": again, "what is there": there, "original": cat}
for axes, (name, picture) in zip(panels.values(), shown.items(), strict=True):
    axes.imshow(picture)
    axes.set_title(name)
    axes.set_axis_off()
plt.show()
