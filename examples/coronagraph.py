"""
Can a faint planet be told from the light of its star?
======================================================

Yes, if frames that are spoilt count for nothing: ``sample_weight`` says how much each
image counts. Components of the star's light are fitted and taken away; the planet is left.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage

from dnmf import NMF

# %%
# A made stack, like those of a coronagraph: 120 frames of a star's halo, in which speckles come
# and go, while the sky turns. A planet, lost in the noise of any one frame, turns
# with it. Every fifth frame is spoilt by stray light.

rng = np.random.default_rng(3)
side, n_frames = 64, 120
y, x = np.mgrid[:side, :side] - (side - 1) / 2
radius = np.hypot(x, y)
pupil = radius < 14


def speckles() -> np.ndarray:
    """Draw the halo of a star that is seen through a bent mirror."""
    bend = ndimage.gaussian_filter(rng.normal(size=(side, side)), 2.5) * 6
    return np.abs(np.fft.fftshift(np.fft.fft2(pupil * np.exp(1j * bend)))) ** 2


halos = np.array([speckles() for _ in range(6)]) / 300
levels = 0.4 + np.abs(ndimage.gaussian_filter1d(rng.normal(size=(n_frames, 6)), 6, axis=0)) * 3
angles = np.linspace(0, 1.4, n_frames) + 2.4
planet = [np.exp(-((x - 19 * np.cos(a)) ** 2 + (y - 19 * np.sin(a)) ** 2) / 3) for a in angles]
spoilt = np.arange(n_frames) % 5 == 2
glare = (
    spoilt[:, None, None]
    * ndimage.gaussian_filter(rng.random((n_frames, side, side)), (0, 4, 4))
    * 1500
)
light = np.tensordot(levels, halos, 1) + 9 * np.array(planet) + glare + 1
stack = rng.poisson(light).astype(np.float32)
hidden = np.broadcast_to((radius < 7) | (radius > 30), stack.shape)

# %%
# Spoilt frames get the weight 0. Pixels behind the coronagraph are masked.

X, mask = stack.reshape(n_frames, -1), hidden.reshape(n_frames, -1)


def faint_light(weight: np.ndarray) -> np.ndarray:
    """Take the star's light away, turn all frames to one angle and average them as weighted."""
    model = NMF(n_components=6, random_state=0).fit(X, mask=mask, sample_weight=weight)
    rest = np.where(mask, 0, X - model.inverse_transform(model.transform(X, mask=mask)))
    turned = [
        ndimage.rotate(frame.reshape(side, side), np.degrees(a - angles[0]), reshape=False, order=1)
        for frame, a in zip(rest, angles, strict=True)
    ]
    return np.average(turned, axis=0, weights=weight)


results = {
    "spoilt frames count for nothing": faint_light(1.0 - spoilt),
    "one frame": stack[10],
    "all frames count": faint_light(np.ones(n_frames)),
}
at = tuple(np.round([19 * np.sin(angles[0]) + 31.5, 19 * np.cos(angles[0]) + 31.5]).astype(int))
figure, panels = plt.subplot_mosaic("AAB;AAC", figsize=(8, 5.3), layout="constrained")
for axes, (name, image) in zip(panels.values(), results.items(), strict=True):
    noise = 1.48 * np.median(np.abs(image[~hidden[0]] - np.median(image[~hidden[0]])))
    print(f"{name}: the planet is {image[at] / noise:.0f} times as bright as the noise")
    seen = np.where(hidden[0], np.nan, image)
    low, high = np.nanquantile(seen, (0.02, 0.998))
    axes.imshow(seen, cmap="inferno", vmin=max(low, 0), vmax=high)
    axes.plot(at[1], at[0], "o", markersize=24, markerfacecolor="none", markeredgecolor="#4bb3fd")
    axes.set_title(name)
    axes.set_axis_off()
plt.show()
