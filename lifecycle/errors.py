"""The one error a user sees: what was wrong, where, and what to do, in a sentence."""


class LifecycleError(Exception):
    """Bad input or a failed step, explained in one sentence that names the place and the remedy.

    The command line prints the sentence and exits with 1; it never shows a traceback for this error.
    """


class ContractError(LifecycleError):
    """A table that does not keep its contract. The message names file, column, row count and first values."""
