"""The oracle: what theory predicts of a chain, beside what the chain does.

A *setting* (model, data, mitigations, sizes) is recognized as a *regime*; a model's *quantities* are the statistics of
its fits, each with its law in that regime where one is known; ``compare`` runs the chain and puts both side by side.
"""

from collapse.oracle.compare import Comparison, Confrontation, compare, fits_to_show
from collapse.oracle.plot import draw, plot
from collapse.oracle.quantity import Fits, Quantity
from collapse.oracle.regime import Setting, regime_of
from collapse.oracle.registry import quantities

__all__ = [
    "Comparison",
    "Confrontation",
    "Fits",
    "Quantity",
    "Setting",
    "compare",
    "draw",
    "fits_to_show",
    "plot",
    "quantities",
    "regime_of",
]
