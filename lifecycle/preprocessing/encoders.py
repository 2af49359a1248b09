"""The encoders that models put before their first coefficient: scikit-learn pipelines, and what they learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lifecycle.errors import LifecycleError


def make_encoder(feature_names: Sequence[str], kind: str) -> Any:
    """Return an unfitted scikit-learn transformer for one float32 matrix of features.

    It addresses columns by position, so that the exported model has a single float input.

    Parameters
    ----------
    feature_names
        The columns of the matrix. Those that end in ``_code`` hold the codes of a category.
    kind
        ``"linear"``: numbers get the training median where missing and are standardized, codes become one
        column a level (an unseen one: all zeros). ``"imputed"``: only the median where a value is
        missing. ``"tree"``: the matrix passes as it is, missing values included.

    Raises
    ------
    LifecycleError
        If `kind` is none of these.

    Examples
    --------
    >>> encoder = make_encoder(["amount", "channel_code"], "linear")
    >>> matrix = np.array([[1, 0], [3, 1], [np.nan, -1]], dtype="float32")
    >>> encoder.fit_transform(matrix).shape
    (3, 4)
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    if kind == "tree":
        return FunctionTransformer()
    if kind == "imputed":
        return SimpleImputer(strategy="median", keep_empty_features=True)
    if kind != "linear":
        raise LifecycleError(f"There is no encoder of kind {kind!r}; use 'linear', 'imputed' or 'tree'.")
    codes = [i for i, name in enumerate(feature_names) if name.endswith("_code")]
    numbers = [i for i in range(len(feature_names)) if i not in codes]
    parts = [
        (
            "numbers",
            make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()),
            numbers,
        )
    ]
    if codes:
        parts.append(
            ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32), codes)
        )
    return ColumnTransformer(parts)


def describe_encoder(encoder: Any, feature_names: Sequence[str]) -> dict[str, Any]:
    """Return every number that a fitted encoder of `make_encoder` has learned, ready for JSON.

    Returns
    -------
    dict
        ``numbers``: name -> ``median`` and, if the encoder standardizes, ``mean`` and ``scale``;
        ``codes``: name -> the codes that get a column each, in order. Both are empty for ``"tree"``.

    Examples
    --------
    >>> names = ["amount", "channel_code"]
    >>> encoder = make_encoder(names, "linear").fit(np.float32([[1, 0], [3, 1], [2, 1]]))
    >>> described = describe_encoder(encoder, names)
    >>> described["numbers"]["amount"]["mean"], described["codes"]
    (2.0, {'channel_code': [0.0, 1.0]})
    """
    numbers: dict[str, dict[str, float]] = {}
    codes: dict[str, list[float]] = {}
    if hasattr(encoder, "named_transformers_"):
        imputer, scaler = (step for _, step in encoder.named_transformers_["numbers"].steps)
        where = {name: columns for name, _, columns in encoder.transformers_}
        learned = zip(imputer.statistics_, scaler.mean_, scaler.scale_, strict=True)
        for column, (median, mean, scale) in zip(where["numbers"], learned, strict=True):
            numbers[feature_names[column]] = {"median": float(median), "mean": float(mean), "scale": float(scale)}
        if "categories" in where:
            kept = encoder.named_transformers_["categories"].categories_
            codes = {feature_names[c]: levels.tolist() for c, levels in zip(where["categories"], kept, strict=True)}
    elif hasattr(encoder, "statistics_"):
        numbers = {name: {"median": float(x)} for name, x in zip(feature_names, encoder.statistics_, strict=True)}
    return {"numbers": numbers, "codes": codes}
