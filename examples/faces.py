"""
Which parts do faces share?
===========================

Lit cheeks, foreheads, mouths, hair and backgrounds. Each face is a sum of a few of them; the
weights say of which, and can be compared, sorted or fed to a classifier.
"""

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
from skimage.data import lfw_subset

from dnmf import NMF, plot

# %%
# A hundred photographs of 25 x 25 pixels, part of "Labeled Faces in the Wild", which scikit-image
# brings along. Their mirror images are faces as well, which doubles the data.

faces = lfw_subset()[:100]
X = np.concatenate([faces, faces[:, :, ::-1]]).reshape(200, -1)
model = NMF(n_components=36, random_state=0, max_iter=1000).fit(X)
model.image_shape_ = (25, 25)
W = model.transform(X)
print(f"{X.shape} -> W {W.shape}, H {model.components_.shape}")
print(f"an image of 625 pixels uses {np.mean((W > 0.01 * W.max()).sum(axis=1)):.0f} parts")

# %%
# All parts, sorted by their share of the images. :func:`dnmf.plot.components` draws them for any
# model; ``image_shape_``, which a model of a corpus has by itself, says how.

plot.components(model, columns=12)

# %%
# Three faces: the three most important parts of each, the others together, and the sum of all.

figure, grid = plt.subplots(3, 6, figsize=(9, 4.6), layout="constrained")
figure.get_layout_engine().set(wspace=0.12)
heads = ["face", "", "three parts", "", "all others", "sum"]
for line, row in zip(grid, (46, 94, 53), strict=True):
    terms = W[row, :, None] * model.components_
    terms = terms[np.argsort(-np.linalg.norm(terms, axis=1))]
    pictures = [X[row], *terms[:3], terms[3:].sum(axis=0), terms.sum(axis=0)]
    tops = [1, *[terms[:3].max()] * 3, 1, 1]
    for axes, picture, top, sign in zip(line, pictures, tops, " ≈+++=", strict=True):
        axes.imshow(picture.reshape(25, 25), cmap="gray" if top == 1 else "magma", vmin=0, vmax=top)
        axes.text(-0.2, 0.5, sign, fontsize=16, ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
for axes, head in zip(grid[0], heads, strict=True):
    axes.set_title(head, fontsize=11)
plt.show()
