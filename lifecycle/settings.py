"""Every knob of a run, in one frozen object. Nothing else in the package reads the environment."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from lifecycle.errors import LifecycleError

ROOT = Path(__file__).resolve().parents[1]

_COUNTS = ("customers", "terminals", "days", "folds", "fold_days", "trials", "cards_per_day", "horizon_months")
_FEWEST_ROWS = 1_000  # of fewer, no share of whole customers stands for a file
_PRICES = ("chargeback_fee", "review_cost", "friction_cost", "analyst_hour", "prediction_cost",
           "bought_prediction_cost", "operation_cost", "development_cost")  # fmt: skip
FRAUD_MIXES = ("local", "consortium")
"""Which kinds of fraud a simulated bank sees most: those of the course's bank, or those of the consortium."""


@dataclass(frozen=True)
class Settings:
    """The knobs of a run.

    Every field can be set by an environment variable of the same name in upper case
    with the prefix ``LIFECYCLE_`` (see `from_environment`). Dates are days in UTC and periods
    are half-open: ``[train_from, train_until)``.

    Examples
    --------
    >>> Settings(customers=100).customers
    100
    >>> Settings().deploy_at - Settings().start
    datetime.timedelta(days=125)
    """

    data_dir: Path = ROOT / "data"

    # The simulated bank.
    seed: int = 7
    customers: int = 5_000
    terminals: int = 10_000
    days: int = 183
    start: date = date(2025, 7, 1)
    fraud_mix: str = "local"

    # The calendar of the model. July only fills the feature windows.
    train_from: date = date(2025, 8, 1)
    train_until: date = date(2025, 9, 22)
    test_from: date = date(2025, 9, 29)
    test_until: date = date(2025, 10, 20)
    deploy_at: date = date(2025, 11, 3)

    # A payment nobody has disputed after this many days counts as honest, until a chargeback says otherwise.
    label_delay_days: int = 7

    # Payments that a model learns from, and that it is judged on. Of more, whole customers are drawn.
    most_rows: int = 1_000_000

    # Model selection.
    folds: int = 4
    fold_days: int = 7
    trials: int = 20

    # Operations.
    cards_per_day: int = 100
    capture_share: float = 0.2

    # Money, in account currency (EUR). The page "Model metrics and business metrics" says where each number comes from.
    chargeback_fee: float = 20.0  # a missed fraud, beside its amount
    review_cost: float = 5.0  # a false alarm or a caught fraud: an eighth of an analyst hour
    friction_cost: float = 2.0  # a declined honest customer
    analyst_hour: float = 40.0
    prediction_cost: float = 0.0001  # an answer of a model of one's own
    bought_prediction_cost: float = 0.1  # an answer of somebody else's
    operation_cost: float = 4_000.0  # a month
    development_cost: float = 120_000.0
    horizon_months: int = 12  # in which the development has to pay

    # Answers in time: a payment whose decision comes later is approved unseen.
    decision_timeout: float = 0.1  # seconds
    busy_share: float = 0.5  # of the busiest hour in which the machine that scores is at work

    @property
    def end(self) -> date:
        """The first day after the simulated period."""
        return self.start + timedelta(days=self.days)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the knobs from ``LIFECYCLE_<FIELD>`` variables; what is not set keeps its default.

        Raises
        ------
        LifecycleError
            If a variable is unknown or its value cannot be read.

        Examples
        --------
        >>> Settings.from_environment({"LIFECYCLE_SEED": "3"}).seed
        3
        """
        environ = os.environ if environ is None else environ
        known = {f"LIFECYCLE_{f.name.upper()}": f for f in fields(cls)}
        given: dict[str, Any] = {}
        for name, text in environ.items():
            if not name.startswith("LIFECYCLE_"):
                continue
            if name not in known:
                raise LifecycleError(f"Unknown setting {name}: use one of {', '.join(sorted(known))}, or unset it.")
            default = known[name].default
            try:
                given[known[name].name] = _parse(text, type(default))
            except ValueError:
                raise LifecycleError(
                    f"Setting {name}={text!r} is not a valid {type(default).__name__}; the default is {default}."
                ) from None
        return cls(**given)

    def with_(self, **changes: Any) -> Settings:
        """Return a copy with some knobs changed.

        Examples
        --------
        >>> Settings().with_(seed=1).seed
        1
        """
        return replace(self, **changes)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise LifecycleError(f"Setting {name} is {getattr(self, name)}; it must be at least 1.")
        if self.most_rows < _FEWEST_ROWS:
            raise LifecycleError(f"Setting most_rows is {self.most_rows}; it must be at least {_FEWEST_ROWS:,}.")
        for name in _PRICES:
            if not 0 <= getattr(self, name) < math.inf:
                raise LifecycleError(f"Setting {name} is {getattr(self, name)}; a price is a number of at least 0.")
        if not 0 < self.decision_timeout < math.inf:
            raise LifecycleError(
                f"Setting decision_timeout is {self.decision_timeout}; it is a number of seconds above 0."
            )
        if not 0 < self.busy_share < 1:
            raise LifecycleError(f"Setting busy_share is {self.busy_share}; it must be between 0 and 1.")
        if self.fraud_mix not in FRAUD_MIXES:
            raise LifecycleError(
                f"Setting fraud_mix is {self.fraud_mix!r}; it must be one of {', '.join(FRAUD_MIXES)}."
            )
        order = ("train_from", "train_until", "test_from", "test_until", "deploy_at")
        for earlier, later in zip(order, order[1:], strict=False):
            if getattr(self, earlier) > getattr(self, later):
                raise LifecycleError(
                    f"Setting {earlier} ({getattr(self, earlier)}) is after {later} ({getattr(self, later)}): "
                    f"the dates must be in the order {', '.join(order)}."
                )


def serving_port(environ: Mapping[str, str] | None = None) -> int:
    """Return the port that the platform asks for in ``SAGEMAKER_BIND_TO_PORT``, or 8080.

    Raises
    ------
    LifecycleError
        If the variable is not a port number.

    Examples
    --------
    >>> serving_port({}), serving_port({"SAGEMAKER_BIND_TO_PORT": "9000"})
    (8080, 9000)
    """
    text = (os.environ if environ is None else environ).get("SAGEMAKER_BIND_TO_PORT", "8080")
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise LifecycleError(f"SAGEMAKER_BIND_TO_PORT={text!r} is not a port: use a number from 1 to 65535.")
    return int(text)


def base_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder that a platform mounts into a container: ``SAGEMAKER_BASE_DIR``, or ``/opt/ml``.

    Examples
    --------
    >>> base_dir({}).as_posix()
    '/opt/ml'
    """
    return Path((os.environ if environ is None else environ).get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def _parse(text: str, kind: type) -> Any:
    if issubclass(kind, Path):
        return Path(text).resolve()
    if kind is date:
        return date.fromisoformat(text)
    return kind(text)
