"""
Which components can one rely on?
=================================

On those that come back from other samples of the images. Bootstrap fits give each component
a likeness to its counterparts, and each weight a spread.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits

from dnmf import NMF

# %%
# 1,797 digits of 8 x 8 pixels, which come with scikit-learn, and 12 components.

X = load_digits().data
model = NMF(n_components=12, random_state=0).fit(X)
W = model.transform(X)

# %%
# Thirty more fits, from other seeds, each to images drawn with replacement. The components of
# each are brought into the order of the first fit: those that are most alike belong together.


def unit(H: np.ndarray) -> np.ndarray:
    """Scale components to length one."""
    return H / np.linalg.norm(H, axis=1, keepdims=True)


rng = np.random.default_rng(0)
likeness, spread = [], []
for seed in range(1, 31):
    sample = X[rng.integers(0, len(X), len(X))]
    other = NMF(n_components=12, random_state=seed).fit(sample)
    cosines = unit(model.components_) @ unit(other.components_).T
    _, order = linear_sum_assignment(cosines, maximize=True)
    likeness.append(cosines[np.arange(12), order])
    lengths = np.linalg.norm(other.components_[order], axis=1)
    spread.append(other.transform(X[:1])[0, order] * lengths)
likeness, spread = np.array(likeness), np.array(spread)
print(f"least and most alike: {likeness.mean(axis=0).min():.2f}, {likeness.mean(axis=0).max():.2f}")

# %%
# Above, the components, and how alike their counterparts are to them; 1 is the same. Below, the
# weights of one image: the 30 fits and, as a line, the first. A component that
# does not come back has weights that mean little.

ranking = np.argsort(-likeness.mean(axis=0))
colors = plt.colormaps["viridis"]((likeness.mean(axis=0)[ranking] - 0.6) / 0.4)
figure = plt.figure(figsize=(10, 5), layout="constrained")
grid = figure.add_gridspec(3, 12, height_ratios=(1, 1.3, 1.3))
for column, j in enumerate(ranking):
    axes = figure.add_subplot(grid[0, column])
    axes.imshow(model.components_[j].reshape(8, 8), cmap="magma", interpolation="bicubic")
    axes.set_axis_off()
lengths = np.linalg.norm(model.components_, axis=1)
rows = {"likeness": (likeness, None), "weights of image 0": (spread, W[0] * lengths)}
for line, (name, (values, first)) in enumerate(rows.items(), start=1):
    axes = figure.add_subplot(grid[line, :])
    for column, (j, color) in enumerate(zip(ranking, colors, strict=True)):
        at = column + rng.uniform(-0.18, 0.18, len(values))
        axes.scatter(at, values[:, j], color=color, s=14, alpha=0.7, linewidth=0)
        if first is not None:
            axes.hlines(first[j], column - 0.3, column + 0.3, color="black", linewidth=1.5)
    axes.set(xlim=(-0.5, 11.5), xticks=[], ylabel=name)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
plt.show()
