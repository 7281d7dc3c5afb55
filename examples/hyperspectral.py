"""
Which spectra is a hyperspectral cube mixed of?
===============================================

NMF with one row per pixel returns the spectra as components and a map of each as weights, and
needs no library of spectra. For counted photons the loss is Kullback and Leibler's.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
from skimage.data import hubble_deep_field

from dnmf import NMF

# %%
# A made cube, because none comes with a package. The maps are real, three pieces of Hubble's deep
# field laid over each other; the spectra are made: a hot and a cool continuum, and two emission
# lines. Each pixel counts photons at 64 wavelengths.

rng = np.random.default_rng(0)
sky = hubble_deep_field().mean(axis=2) / 255
height, width = 260, 400
corners = [(60, 60), (340, 100), (600, 500)]
maps = np.array([sky[y : y + height, x : x + width] for y, x in corners])
maps = (maps - np.quantile(sky, 0.6)).clip(0).reshape(3, -1)
nm = np.linspace(420, 740, 64)
spectra = np.array(
    [
        (420 / nm) ** 4 * (1 - 0.7 * np.exp(-(((nm - 486) / 8) ** 2))),
        (nm / 740) ** 4 * (1 - 0.5 / (1 + np.exp((nm - 540) / 12))),
        np.exp(-(((nm - 501) / 7) ** 2)) + 0.35 * np.exp(-(((nm - 656) / 7) ** 2)),
    ]
)
X = rng.poisson(60 * maps.T @ spectra)
print(f"X {X.shape}: {np.mean(X.sum(axis=1)):.0f} photons in a pixel")

# %%
# Pixels with few photons have much noise for their brightness. The Kullback-Leibler loss weighs
# them accordingly.

model = NMF(3, beta_loss="kullback-leibler", init="nndsvda", tol=1e-5, random_state=0)
W = model.fit_transform(X)
H = model.components_ / model.components_.max(axis=1, keepdims=True)
W = W * model.components_.max(axis=1)
order = [int(np.argmax(np.corrcoef(H, known)[3, :3])) for known in spectra]
for j, known in zip(order, spectra, strict=True):
    print(f"component {j}: correlation with the spectrum made {np.corrcoef(H[j], known)[0, 1]:.4f}")

# %%
# Each component in a colour of its own: where it is, and what its spectrum is. The blue one loses
# some of its light to the others: in no pixel is it alone and bright, so that NMF cannot tell.

colors = np.array([[0.25, 0.55, 1.0], [1.0, 0.45, 0.15], [0.2, 0.95, 0.5]])
bright = (W[:, order] / np.quantile(W[:, order], 0.995, axis=0)) ** 0.7
figure, (above, below) = plt.subplots(
    2, 1, figsize=(7, 6.6), layout="constrained", height_ratios=(2.2, 1)
)
above.imshow((bright @ colors).clip(0, 1).reshape(height, width, 3))
above.set_axis_off()
for j, known, color in zip(order, spectra, colors * 0.85, strict=True):
    below.plot(nm, H[j], color=color, linewidth=2.5)
    below.plot(nm, known / known.max(), color="black", linewidth=0.8, linestyle=":")
below.plot([], [], color="black", linewidth=0.8, linestyle=":", label="the spectra made")
below.set(xlabel="wavelength, nm", yticks=[], title="components")
below.legend(frameon=False, loc="upper center")
below.spines[["top", "left", "right"]].set_visible(False)
plt.show()
