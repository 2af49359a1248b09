"""The look of every figure: colors that the color-blind can tell apart, on a white card, in readable sizes."""

from __future__ import annotations

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
SKY, PURPLE, YELLOW, BLACK, GRAY = "#56b4e9", "#cc79a7", "#f0e442", "#000000", "#7f7f7f"

PALETTE = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE, BLACK)
"""The colors of Okabe and Ito (2008), in the order in which lines get them; yellow is too faint on white."""

_STYLE = {
    "figure.figsize": (6.6, 3.7),
    "figure.dpi": 120,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.15,
    "axes.facecolor": "white",
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "font.size": 11,
}


def use_style() -> None:
    """Make matplotlib draw every later figure in the look of the course.

    Figures keep their white card in a dark page, so text and lines stay readable.

    Examples
    --------
    >>> use_style()
    >>> import matplotlib
    >>> matplotlib.rcParams["figure.facecolor"]
    'white'
    """
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(_STYLE)
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=PALETTE)
