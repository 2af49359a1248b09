"""The one path from a payment to a decision: features, model, threshold.

The service, the replay of monitoring and every test go through `Scorer.score`. Whatever happens to a payment
before the model sees it happens there, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lifecycle.deployment.artifact import ArtifactError, Package, open_package
from lifecycle.deployment.messages import RecordFormat

if TYPE_CHECKING:
    from lifecycle.deployment.serving import Remembered, ServedFeatures

REVIEW, APPROVE = "review", "approve"


class Features(Protocol):
    """What turns payments into the model's input and remembers them for the next ones."""

    def transform(self, records: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return float32, shape (records, features), in the order of the model's schema."""


class Model(Protocol):
    """What turns features into scores."""

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Return float64 scores between 0 and 1, shape (records,)."""


class Scorer:
    """Scores payments and decides about them.

    Parameters
    ----------
    features
        See `Features`.
    model
        See `Model`.
    threshold
        A payment with at least this score goes to review.
    record_format
        How this model's records are written, for whoever reads requests.

    Examples
    --------
    >>> class Amounts:
    ...     def transform(self, records):
    ...         return np.array([[r["amount"]] for r in records], dtype="float32")
    >>> class Large:
    ...     def predict(self, matrix):
    ...         return matrix[:, 0] / 1000.0
    >>> Scorer(Amounts(), Large(), 0.5).score([{"transaction_id": 1, "amount": 750.0}])
    [{'transaction_id': 1, 'score': 0.75, 'decision': 'review'}]
    """

    def __init__(
        self, features: Features, model: Model, threshold: float, record_format: RecordFormat | None = None
    ) -> None:
        self._features = features
        self._model = model
        self.threshold = float(threshold)
        self.record_format = record_format or RecordFormat()

    @classmethod
    def open(cls, folder: Path | str, digest: str | None = None, recent: Remembered | None = None) -> Scorer:
        """Check a package and load it.

        Parameters
        ----------
        folder
            A folder made by `lifecycle.deployment.build`, or unpacked from ``model.tar.gz``.
        digest
            The registered digest of the package, if there is one.
        recent
            The memory of a version that is running, to share; by default one that begins with the packaged history.

        Raises
        ------
        ArtifactError
            If the package does not pass `open_package`, or its feature store holds code.
        """
        package = open_package(folder, digest)
        found = load_features(package, recent)
        scorer = cls(found, load_model(package), package.threshold, package.record_format)
        scorer._try_out(package)
        return scorer

    def _try_out(self, package: Package) -> None:
        """Score one made-up payment of nobody, so that a package that cannot score never looks healthy.

        It also makes the first real payment as fast as the second.
        """
        nobody = {name: -1 if kind == "integer" else "" for name, kind in self.record_format.ids.items()}
        moment = datetime.fromisoformat(f"{package.manifest['first_day']}T00:00:00+00:00")
        payment = {**nobody, "event_time": moment, "amount": 1.0}
        try:
            prepared = self._features.prepare([payment])
            seen = [self._features.recent.look_one(*key[:3]) for key in prepared.keys]
            (score,) = self.predict(self._features.finish(prepared, seen))
            healthy = 0 <= score <= 1
        except Exception as error:
            raise ArtifactError(
                f"The package in {package.folder} does not work with this version of the code "
                f"({type(error).__name__}: {str(error)[:100]}); build it again."
            ) from error
        if not healthy:
            raise ArtifactError(f"The model in {package.folder} gives a score outside of 0 to 1; build it again.")

    @property
    def features(self) -> Any:
        """What makes the model's input; `ServedFeatures` for a scorer that was opened from a package."""
        return self._features

    def predict(self, matrix: np.ndarray) -> list[float]:
        """Return the score of each row of features, the same to the last bit alone and among others.

        A linear model multiplies one row and several rows with different routines, which round differently; so a
        row that is alone is scored beside itself. (Trees add up in one order, however many rows there are.)
        """
        if len(matrix) == 1:
            return self._model.predict(np.repeat(matrix, 2, axis=0))[:1].tolist()
        return self._model.predict(matrix).tolist()

    def score(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Score payments in the order given, and remember each for the features of those after it.

        Parameters
        ----------
        records
            Checked records, as `lifecycle.deployment.messages.parse` returns them.

        Returns
        -------
        list of dict
            ``transaction_id``, ``score`` (float in [0, 1]) and ``decision`` ("review" or "approve"), in order.
        """
        scores = self.predict(self._features.transform(records))
        return [
            {"transaction_id": record["transaction_id"], "score": score, "decision": decide(score, self.threshold)}
            for record, score in zip(records, scores, strict=True)
        ]


def decide(score: float, threshold: float) -> str:
    """Return the decision about one payment.

    Examples
    --------
    >>> decide(0.7, 0.5), decide(0.2, 0.5)
    ('review', 'approve')
    """
    return REVIEW if score >= threshold else APPROVE


def load_model(package: Package) -> Model:
    """Load the ONNX model of a checked package."""
    from lifecycle import training

    return training.load_model(package.folder, threads=1)


def load_features(package: Package, recent: Remembered | None = None) -> ServedFeatures:
    """Open the online features of a checked package, ready for the first payment after its history.

    Raises
    ------
    ArtifactError
        If the feature store holds code, or other features than the model was trained on.
    """
    import pandas as pd

    from lifecycle import files
    from lifecycle.deployment.serving import ServedFeatures

    online = package.folder / "online"
    refuse_registry_code(online / "registry.db")
    found = ServedFeatures(online)
    if found.schema != files.read_json(package.folder / "feature_schema.json"):
        raise ArtifactError(f"The feature store in {online} holds other features than the model was trained on.")
    if recent is None:
        found.recent.seed(pd.read_parquet(online / "history" / "transactions.parquet"))
    else:
        found.recent = recent
    return found


def _registry_class() -> Any:
    from lifecycle.features.store import import_feast

    import_feast()
    from feast.protos.feast.core.Registry_pb2 import Registry

    return Registry


def remove_registry_code(registry: Path) -> None:
    """Take the on-demand views out of a Feast registry file.

    Feast keeps the function of an on-demand view inside the registry, as text and as a pickle, and runs it when
    it reads the registry. The service computes request-time features with the package's own function, so the
    shipped registry needs no code and must hold none.
    """
    content = _registry_class().FromString(registry.read_bytes())
    content.ClearField("on_demand_feature_views")
    content.ClearField("feature_services")
    registry.write_bytes(content.SerializeToString(deterministic=True))


def refuse_registry_code(registry: Path) -> None:
    """Raise an ArtifactError if a Feast registry file holds a function."""
    from google.protobuf.message import DecodeError

    try:
        content = _registry_class().FromString(registry.read_bytes())
    except DecodeError:
        raise ArtifactError(f"{registry} is not a Feast registry; build or copy the package again.") from None
    if content.on_demand_feature_views or content.stream_feature_views:
        raise ArtifactError(f"{registry} holds a feature view with code in it; this package is refused.")
