"""Pictures of models and of sweeps, each a `matplotlib.figure.Figure`.

It may import `model_selection` and the folders below it, not `io`. Start at `model`, with the
figures of one model; `sweep` has those that compare numbers of components. `images` draws rows of
images, and `style` holds colours, titles and the writing of files. Public names are exported here.
"""

from dnmf.plot.contact_sheet import contact_sheet
from dnmf.plot.model import components, loss_curve, reconstructions, write_plots
from dnmf.plot.page.report import report, write_report
from dnmf.plot.sweep import reconstruction_sheet, selection, write_sweep_plots

__all__ = [
    "components",
    "contact_sheet",
    "loss_curve",
    "reconstruction_sheet",
    "reconstructions",
    "report",
    "selection",
    "write_plots",
    "write_report",
    "write_sweep_plots",
]
