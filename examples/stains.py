"""
Which dye is where in a stained tissue?
=======================================

In a slide with two dyes each pixel is a mixture. NMF of the optical densities finds the colour of
both dyes and the amount of each in every pixel, without a reference slide.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
from skimage.data import immunohistochemistry

from dnmf import NMF

# %%
# A piece of colon, from scikit-image: haematoxylin stains nuclei blue, and an antibody stains a
# protein (FHL2) brown. Each dye lets through a share of the light, so optical densities add up:
# that is the sum that NMF looks for. X has one row per pixel and one column per colour channel.

slide = immunohistochemistry()
density = -np.log10((slide.reshape(-1, 3) + 1.0) / 256)
X = density.clip(0)
print(X.shape)

# %%
# Two components are the two dyes. The small penalty on W prefers pixels with a single dye; without
# it, mixtures of the two colours would explain the picture as well.

model = NMF(n_components=2, alpha_W=2e-3, alpha_H=0, l1_ratio=1, random_state=0, tol=1e-3)
amounts = model.fit_transform(X)
order = np.argsort(model.components_[:, 2] - model.components_[:, 0])  # brown lets red pass
amounts, dyes = amounts[:, order], model.components_[order]
for name, dye in zip(("haematoxylin", "antibody"), dyes, strict=True):
    red, green, blue = dye / np.linalg.norm(dye)
    print(f"{name}: absorbs red {red:.2f}, green {green:.2f}, blue {blue:.2f}")

# %%
# The slide as it would look with one dye alone.


def with_dyes(chosen: list[int]) -> np.ndarray:
    """Compute the colours of the slide with some of the dyes."""
    return 10 ** -(amounts[:, chosen] @ dyes[chosen]).reshape(slide.shape)


pictures = {
    "the slide": slide,
    "haematoxylin alone": with_dyes([0]),
    "antibody alone": with_dyes([1]),
}
figure, panels = plt.subplot_mosaic("AAB;AAC", figsize=(8, 5.4), layout="constrained")
for axes, (name, picture) in zip(panels.values(), pictures.items(), strict=True):
    axes.imshow(picture)
    axes.set_title(name)
    axes.set_axis_off()
plt.show()
