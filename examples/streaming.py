"""
Can a model learn from images while they arrive?
================================================

Yes: ``partial_fit`` takes them a few at a time, keeps none of them, and comes close to a fit to
all of them together.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np

from dnmf import NMF
from dnmf.data import digits

# %%
# Handwritten digits arrive, 200 at a time. A thousand others are kept aside, to see how well images
# are described that the model has never met.

stream, unseen = digits()[:9000], digits()[9000:]


def error(model: NMF) -> float:
    """Compute the relative error on the images kept aside."""
    losses = 2 * model.reconstruct_error(unseen).sum()
    return np.sqrt(losses) / np.linalg.norm(unseen.astype(np.float32))


# %%
# What the model keeps are sums over the images, of the same size however many there were. So
# a stream may be endless. ``forget_factor`` says how fast what was learned fades.

model = NMF(n_components=16, random_state=0, forget_factor=0.95)
seen, errors, parts = [], [], {}
for start in range(0, len(stream), 200):
    model.partial_fit(stream[start : start + 200])
    seen.append(start + 200)
    errors.append(error(model))
    if seen[-1] in (200, 1000, 9000):
        parts[seen[-1]] = model.components_.copy()
print(f"after {seen[0]} images {errors[0]:.1%}, after {seen[-1]:,} {errors[-1]:.1%}")

# %%
# A fit to all images together is the measure of what can be reached.

together = error(NMF(n_components=16, random_state=0).fit(stream))
print(f"fit to all images {together:.1%}")

# %%
# The error falls while the components turn from noisy pieces of digits into strokes.

figure = plt.figure(figsize=(10, 6), layout="constrained")
grid = figure.add_gridspec(2, 3, height_ratios=(1.5, 1))
for column, (n, H) in enumerate(parts.items()):
    axes = figure.add_subplot(grid[0, column])
    tiles = (H / H.max(axis=1, keepdims=True)).reshape(4, 4, 28, 28)
    axes.imshow(tiles.swapaxes(1, 2).reshape(112, 112), cmap="magma")
    axes.set_title(f"after {n:,} images")
    axes.set_axis_off()
axes = figure.add_subplot(grid[1, :])
axes.plot(seen, errors, color="#31688e", linewidth=2.5)
axes.axhline(together, color="#d55e00", linewidth=1.5)
axes.text(9000, together, "fit to all together", color="#d55e00", ha="right", va="bottom")
axes.set(xlabel="images seen", ylabel="error on unseen images", xlim=(0, 9050), ylim=(0.5, None))
axes.yaxis.set_major_formatter("{x:.0%}")
axes.spines[["top", "right"]].set_visible(False)
plt.show()
