"""What sphinx-gallery is told about the examples: their order, and where their pictures are."""

from pathlib import Path
from weakref import WeakSet

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper

ORDER = (
    *("mnist_tutorial", "faces", "stains", "film", "hyperspectral", "missing_pixels"),
    *("coronagraph", "choose_rank", "uncertainty", "streaming"),
    *("larger_than_memory", "resume", "dask_cluster"),
)
"""Examples in the order of the gallery: what NMF shows, how to judge it, how to run it large."""

SAVED = WeakSet()
"""Figures of `dnmf.plot` that are in the gallery."""


def place(filename):
    """Return the place of an example; one that is not in `ORDER` is a ValueError."""
    return ORDER.index(Path(filename).stem)


def save_pictures(block, block_vars, gallery_conf):
    """Save the figure in which a cell ends, as a notebook shows it, and all those of pyplot."""
    last = block_vars["example_globals"].get("___")
    paths = []
    if isinstance(last, Figure) and last not in SAVED:
        SAVED.add(last)
        paths.append(next(block_vars["image_path_iterator"]))
        last.savefig(paths[0], dpi=100)
    shown = figure_rst(paths, gallery_conf["src_dir"]) if paths else ""
    return shown + matplotlib_scraper(block, block_vars, gallery_conf)
