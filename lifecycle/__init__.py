"""The machine-learning lifecycle, one module per stage, on one payment-fraud data set."""

__version__ = "0.1.0"
