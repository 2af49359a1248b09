"""A model on disk: an ONNX graph, its feature schema, and a card with hashes. Nothing in it can be executed.

A model folder holds three files:

- ``model.onnx``: the preprocessing and the model as one graph, from one float32 matrix to two probabilities;
- ``feature_schema.json``: the names of the columns, in order, with their categories and their hash;
- ``model.json``: name, version, threshold, training period, library versions, and the SHA-256 of the other two.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lifecycle import files
from lifecycle.errors import LifecycleError

MODEL_FILES = ("model.onnx", "feature_schema.json", "model.json")
_LIBRARIES = ("numpy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime")
_OPSET = {"": 17, "ai.onnx.ml": 3}
_TOLERANCE = 1e-5


class Model:
    """A loaded model: scores a float32 matrix with ONNX Runtime.

    Attributes
    ----------
    features : list of str
        The names of the columns that `predict` expects, in order.
    threshold : float
        A payment is flagged when its score reaches this.
    schema, facts : dict
        The contents of ``feature_schema.json`` and ``model.json``.
    """

    def __init__(self, graph: bytes, schema: Mapping[str, Any], facts: Mapping[str, Any], threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait for rows would spin, and take the time of those that compute: on two busy or shared
        # processors two threads then score half as many rows as one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.schema = dict(schema)
        self.facts = dict(facts)
        self.features = feature_names(schema)
        self.threshold = float(facts.get("threshold", 0.5))
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Return the probability of fraud for each row.

        Parameters
        ----------
        matrix
            float32, shape (n, number of features); missing values are NaN.

        Returns
        -------
        numpy.ndarray
            float64, shape (n,), between 0 and 1.

        Raises
        ------
        LifecycleError
            If the matrix does not have one column a feature.
        """
        matrix = np.ascontiguousarray(matrix, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[1] != len(self.features):
            raise LifecycleError(
                f"The model expects {len(self.features)} columns ({self.features[0]}, ...), "
                f"the matrix has shape {matrix.shape}; build it from feature_schema.json."
            )
        if not len(matrix):
            return np.empty(0)
        return self._session.run(["probabilities"], {self._input: matrix})[0][:, 1].astype(np.float64)

    def __repr__(self) -> str:
        return f"Model({self.facts.get('name')}, version {self.facts.get('version')}, {len(self.features)} features)"


def feature_names(schema: Mapping[str, Any]) -> list[str]:
    """Return the names of the feature columns, in the order of the matrix.

    Examples
    --------
    >>> feature_names({"features": [{"name": "amount", "dtype": "float32", "view": "request"}]})
    ['amount']
    """
    return [feature["name"] for feature in schema["features"]]


def feature_matrix(frame: Any, schema: Mapping[str, Any]) -> np.ndarray:
    """Return the feature columns of a table as a float32 matrix of shape (rows, features).

    Raises
    ------
    LifecycleError
        If the table lacks a feature of the schema.

    Examples
    --------
    >>> import pandas as pd
    >>> feature_matrix(pd.DataFrame({"b": [1, 2], "a": [3, 4]}), {"features": [{"name": "a"}, {"name": "b"}]})
    array([[3., 1.],
           [4., 2.]], dtype=float32)
    """
    names = feature_names(schema)
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise LifecycleError(
            f"The table lacks {len(missing)} of {len(names)} features of the schema ({', '.join(missing[:3])}); "
            "build the table and the schema together, with the features stage."
        )
    return frame[names].to_numpy(dtype=np.float32)


def to_onnx(estimator: Any, columns: int) -> bytes:
    """Return a fitted scikit-learn classifier or pipeline as an ONNX graph.

    The graph has one input, a float32 matrix with `columns` columns, and the outputs ``label`` and
    ``probabilities`` (float32, shape (n, 2)).
    """
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    _register_trees()
    classifier = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if "bootstrap" in classifier.get_params() and classifier is estimator:
        # skl2onnx walks all attributes of a forest, among them the rows drawn for every tree: spare it the drawing.
        estimator = copy.copy(estimator).set_params(bootstrap=False)
    graph = skl2onnx.convert_sklearn(
        estimator,
        name=type(classifier).__name__,
        initial_types=[("features", FloatTensorType([None, columns]))],
        options={type(classifier): {"zipmap": False}},
        target_opset=_OPSET,
    )
    # skl2onnx lists the operator sets in the order of a set: sorted, the same model is the same file in any process.
    operator_sets = sorted(graph.opset_import, key=lambda one: one.domain)
    del graph.opset_import[:]
    graph.opset_import.extend(operator_sets)
    return graph.SerializeToString()


def save_model(
    estimator: Any, schema: Mapping[str, Any], folder: Path | str, sample: np.ndarray | None = None, **facts: Any
) -> Model:
    """Write a model folder, and return the model as it will be loaded.

    Parameters
    ----------
    estimator
        A fitted scikit-learn classifier or pipeline over the matrix of `feature_matrix`.
    schema
        The content of the features stage's ``schema.json``.
    folder
        Where to write; it is created.
    sample
        Rows on which the graph must score as scikit-learn does, within 1e-5.
    **facts
        What ``model.json`` shall say besides: name, threshold, trained_from, trained_until, ...

    Raises
    ------
    LifecycleError
        If the ONNX graph and scikit-learn disagree on `sample`.
    """
    folder = Path(folder)
    graph = to_onnx(estimator, len(feature_names(schema)))
    if sample is not None and len(sample):
        gap = np.abs(Model(graph, schema, {}).predict(sample) - estimator.predict_proba(sample)[:, 1]).max()
        if not gap <= _TOLERANCE:
            raise LifecycleError(
                f"The ONNX graph of {facts.get('name', 'the model')} scores up to {gap:.1e} away from scikit-learn on "
                f"{len(sample):,} rows, more than {_TOLERANCE:.0e}; do not use it, and report the library versions."
            )
    with files.replacing(folder / "model.onnx") as temporary:
        temporary.write_bytes(graph)
    files.write_json(schema, folder / "feature_schema.json")
    write_card(folder, facts)
    return load_model(folder)


def write_card(folder: Path | str, facts: Mapping[str, Any]) -> None:
    """Write ``model.json`` for the ``model.onnx`` and ``feature_schema.json`` that are in the folder."""
    folder = Path(folder)
    digests = {name: files.sha256(folder / name) for name in MODEL_FILES[:2]}
    card = {
        "name": "model",
        "version": f"{facts.get('trained_until', 'none')}-{digests['model.onnx'][:8]}",
        "threshold": 0.5,
        **facts,
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "sha256": digests,
    }
    files.write_json(card, folder / "model.json")


def load_model(folder: Path | str, threads: int = 0) -> Model:
    """Load a model folder after checking it against its hashes.

    Parameters
    ----------
    folder
        What `save_model` wrote.
    threads
        Threads for one call of `Model.predict`; 0 takes all cores.

    Raises
    ------
    LifecycleError
        If a file is missing, if its hash differs from ``model.json``, or if the graph cannot be read.
    """
    folder = Path(folder)
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise LifecycleError(
                f"{folder} is not a model folder: {name} is missing; a model folder holds {', '.join(MODEL_FILES)}."
            )
    facts = files.read_json(folder / "model.json")
    recorded = facts.get("sha256") if isinstance(facts, dict) else None
    for name in MODEL_FILES[:2]:
        found = files.sha256(folder / name)
        expected = recorded.get(name) if isinstance(recorded, dict) else None
        if found != expected:
            raise LifecycleError(
                f"{folder / name} is not the file that model.json names (SHA-256 {found[:12]}..., expected "
                f"{str(expected)[:12]}...): it was changed or belongs to another model; fetch the model again."
            )
    try:
        schema = files.read_json(folder / "feature_schema.json")
        return Model((folder / "model.onnx").read_bytes(), schema, facts, threads)
    except LifecycleError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0][:120]
        raise LifecycleError(f"{folder} holds no usable model ({reason}); fetch or build the model again.") from None


def _register_trees() -> None:
    """Make skl2onnx use the converter below for the two tree ensembles.

    Its own one (1.20) drops the branch that a forest takes for a missing value, and cannot write
    the boosting model with the protobuf of today.
    """
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes as shapes
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    options = {"zipmap": [True, False, "columns"], "nocl": [True, False], "output_class_labels": [False, True]}
    for kind in (HistGradientBoostingClassifier, RandomForestClassifier):
        update_registered_converter(kind, kind.__name__, shapes, _convert_trees, overwrite=True, options=options)


def _convert_trees(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a tree ensemble to an ONNX graph: sum of leaves, then the two probabilities."""
    model = operator.raw_operator
    forest = hasattr(model, "estimators_")
    trees = _forest_trees(model) if forest else _boosting_trees(model)
    start = 0.0 if forest else float(np.ravel(model._baseline_prediction)[0])
    total, fraud, honest = (scope.get_unique_variable_name(name) for name in ("total", "fraud", "honest"))
    container.add_node(
        "TreeEnsembleRegressor", operator.inputs[0].full_name, total, op_domain="ai.onnx.ml",
        name=scope.get_unique_operator_name("TreeEnsembleRegressor"), **_tree_attributes(trees, start),
    )  # fmt: skip
    one = scope.get_unique_variable_name("one")
    container.add_initializer(one, 1, [1], [1.0])
    # The shares of a forest's trees may add up to a little more than 1 in float32.
    link, inputs = ("Min", [total, one]) if forest else ("Sigmoid", [total])
    container.add_node(link, inputs, fraud, name=scope.get_unique_operator_name("Link"))
    container.add_node("Sub", [one, fraud], honest, name=scope.get_unique_operator_name("Sub"))
    label, both = (output.full_name for output in operator.outputs)
    container.add_node("Concat", [honest, fraud], both, axis=1, name=scope.get_unique_operator_name("Concat"))
    container.add_node("ArgMax", both, label, axis=1, keepdims=0, name=scope.get_unique_operator_name("ArgMax"))


def _forest_trees(model: Any) -> list[dict[str, np.ndarray]]:
    share = 1.0 / len(model.estimators_)
    trees = []
    for estimator in model.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left == -1
        trees.append({
            "leaf": leaf, "feature": tree.feature, "threshold": tree.threshold,
            "left": tree.children_left, "right": tree.children_right, "missing": tree.missing_go_to_left,
            "value": tree.value[:, 0, 1] / tree.value[:, 0, :].sum(axis=1) * share,
        })  # fmt: skip
    return trees


def _boosting_trees(model: Any) -> list[dict[str, np.ndarray]]:
    trees = []
    for (predictor,) in model._predictors:
        nodes = predictor.nodes
        trees.append({
            "leaf": nodes["is_leaf"].astype(bool), "feature": nodes["feature_idx"], "threshold": nodes["num_threshold"],
            "left": nodes["left"], "right": nodes["right"], "missing": nodes["missing_go_to_left"],
            "value": nodes["value"],
        })  # fmt: skip
    return trees


def _tree_attributes(trees: list[dict[str, np.ndarray]], start: float) -> dict[str, Any]:
    """Return the attributes of ONNX's TreeEnsembleRegressor.

    A threshold is rounded down to the float32 below it: for float32 inputs, ``x <= t`` stays what it was.
    """
    sizes = [len(tree["leaf"]) for tree in trees]
    tree_ids = np.repeat(np.arange(len(trees)), sizes)
    node_ids = np.concatenate([np.arange(size) for size in sizes])
    column = {name: np.concatenate([tree[name] for tree in trees]) for name in trees[0]}
    leaf = column["leaf"]
    threshold = column["threshold"].astype(np.float32)
    too_high = threshold.astype(np.float64) > column["threshold"]
    threshold[too_high] = np.nextafter(threshold[too_high], np.float32(-np.inf))

    def inner(values: np.ndarray) -> list[int]:
        return np.where(leaf, 0, values).astype(np.int64).tolist()

    return {
        "nodes_treeids": tree_ids.tolist(),
        "nodes_nodeids": node_ids.tolist(),
        "nodes_featureids": inner(column["feature"]),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_values": np.where(leaf, 0, threshold).astype(np.float32).tolist(),
        "nodes_truenodeids": inner(column["left"]),
        "nodes_falsenodeids": inner(column["right"]),
        "nodes_missing_value_tracks_true": inner(column["missing"]),
        "target_treeids": tree_ids[leaf].tolist(),
        "target_nodeids": node_ids[leaf].tolist(),
        "target_ids": [0] * int(leaf.sum()),
        "target_weights": column["value"][leaf].astype(np.float32).tolist(),
        "n_targets": 1,
        "base_values": [start],
    }
