"""
How many components are there?
==============================

As many as predict pixels best that the model has not seen. :func:`dnmf.rank_sweep` fits all
numbers in the same reads of X, and says when the data have no clear answer.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np

from dnmf import plot, rank_sweep
from dnmf.data import digits

# %%
# First images that have an answer: 500 mixtures of seven overlapping blobs, with 10 % noise.

rng = np.random.default_rng(0)
y, x = np.mgrid[:16, :16] / 16
places = [(0.2, 0.2), (0.2, 0.6), (0.45, 0.85), (0.5, 0.45), (0.75, 0.2), (0.8, 0.7), (0.5, 0.15)]
blobs = np.array([np.exp(-((y - v) ** 2 + (x - h) ** 2) / 0.03).ravel() for v, h in places])
mixtures = rng.gamma(1, 1, (500, 7)) @ blobs
mixtures *= rng.normal(1, 0.1, mixtures.shape).clip(0)

figure, panels = plt.subplots(2, 4, figsize=(8, 4), layout="constrained")
for axes, image in zip(panels.flat, mixtures, strict=False):
    axes.imshow(image.reshape(16, 16), cmap="magma", interpolation="bicubic")
    axes.set_axis_off()

# %%
# For each number, three models are fitted while a tenth of all pixels is held out from them. Too
# few components cannot describe those pixels; too many have learned noise.

sweep = rank_sweep(mixtures, range(5, 10))
print(sweep)

# %%
# :func:`dnmf.plot.selection` draws both signs: the lowest error on pixels held out, and components
# that come out the same from other starts and other samples.

plot.selection(sweep)

# %%
# The model of the recommended number is there already. Its components are the blobs.

model = sweep.best_model_
figure, panels = plt.subplots(1, 7, figsize=(10, 1.6), layout="constrained")
for axes, part in zip(panels, model.components_, strict=True):
    axes.imshow(part.reshape(16, 16), cmap="magma", interpolation="bicubic")
    axes.set_axis_off()

# %%
# Digits have no such number: with each component more, unseen pixels are predicted better. The
# sweep says so. It is then a trade-off between error and cost.

print(rank_sweep(digits()[:800], [4, 9, 16], n_init=2).reason_)
plt.show()
