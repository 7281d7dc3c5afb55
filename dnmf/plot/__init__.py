"""Pictures of models and of sweeps, each a `matplotlib.figure.Figure`.

Imports `model_selection` and all below, not `io`.
Start reading at `model`; `sweep` draws numbers of components side by side.
"""

from dnmf.plot.model import components, loss_curve, reconstructions, write_plots
from dnmf.plot.sweep import reconstruction_sheet, selection, write_sweep_plots

__all__ = [
    "components",
    "loss_curve",
    "reconstruction_sheet",
    "reconstructions",
    "selection",
    "write_plots",
    "write_sweep_plots",
]
