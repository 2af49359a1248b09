"""The machine-learning lifecycle, one module per stage, on one payment-fraud data set."""

import os

__version__ = "0.1.0"

# A model fit spins while it waits for its other threads. Where more runs than the machine has cores, as when two
# notebooks run side by side, the spinning takes the time that the others need. Not to spin at all makes a small fit
# alone take twice as long, because its threads wait often and for microseconds: GNU's OpenMP spins that long, and no
# longer. Read when OpenMP is first loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "500")
