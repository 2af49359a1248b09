"""A small bank for the tests of training, tuning and evaluation: what the stages before them write, with signal."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from lifecycle import files, training
from lifecycle.contracts import labels_as_of, midnight
from lifecycle.pipeline import STAGES, Knobs
from lifecycle.settings import Settings

DAY = pd.Timedelta(days=1)
SETTINGS = Settings(
    train_from=date(2025, 8, 1),
    train_until=date(2025, 9, 1),
    test_from=date(2025, 9, 8),
    test_until=date(2025, 9, 22),
    deploy_at=date(2025, 10, 6),
    folds=2,
    trials=4,
    cards_per_day=5,
)
FEATURES = (
    "amount",
    "amount_to_mean_30d",
    "terminal_fraud_30d",
    "customer_count_1h",
    "is_night",
    "hour",
    "channel_code",
)
SCHEMA = {
    "features": [{"name": name, "dtype": "float32", "view": "test"} for name in FEATURES],
    "categories": {"channel": ["contactless", "online", "pos"]},
    "sha256": "0" * 64,
}


def knobs(stage: str, data_dir: Path, **changes: object) -> Knobs:
    """Return the settings as the stage sees them."""
    return Knobs(SETTINGS.with_(data_dir=data_dir, **changes), STAGES[stage].knobs)


def make_payments(rows: int = 9_000, seed: int = 0, strings: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return payments with features, a true label and an oracle, and the label history."""
    rng = np.random.default_rng(seed)
    start = midnight("2025-07-25")
    micros = np.sort(rng.integers(0, 59 * 86_400_000_000, rows))
    fraud = rng.random(rows) < 0.03
    kind = np.where(fraud, rng.integers(1, 4, rows), 0)
    ratio = rng.lognormal(0, 0.5, rows) * np.where(kind == 1, 8, 1)
    frame = pd.DataFrame({
        "transaction_id": np.arange(rows),
        "event_time": (start + pd.to_timedelta(micros, unit="us")).astype("datetime64[us, UTC]"),
        "customer_id": rng.integers(0, 150, rows),
        "terminal_id": rng.integers(0, 80, rows),
        "amount": (ratio * 40).round(2) + 0.01,
        "amount_to_mean_30d": ratio,
        "terminal_fraud_30d": rng.poisson(np.where(kind == 2, 4, 0.1)),
        "customer_count_1h": rng.poisson(np.where(kind == 3, 4, 0.2)),
        "is_night": micros // 3_600_000_000 % 24 < 6,
        "hour": micros // 3_600_000_000 % 24,
        "channel_code": rng.integers(-1, 3, rows),
        "true_fraud": fraud.astype("int8"),
        "mode": pd.Categorical.from_codes(kind, ["", "large_amount", "skimming", "card_testing"]),
        "oracle": np.where(fraud, rng.uniform(0.6, 1, rows), rng.uniform(0, 0.4, rows)),
    })  # fmt: skip
    frame = frame.astype({name: "float32" for name in FEATURES if name != "amount"})
    frame.loc[rng.random(rows) < 0.02, "amount_to_mean_30d"] = np.nan
    reported = frame["event_time"] + pd.to_timedelta((rng.lognormal(1.4, 0.9, rows) * 86_400).round(), unit="s")
    late = fraud & (reported - frame["event_time"] > 7 * DAY).to_numpy()
    clean = ~fraud | late
    ids = frame["transaction_id"]
    honest = pd.DataFrame({"transaction_id": ids, "is_fraud": 0, "known_at": frame["event_time"] + 7 * DAY})
    disputed = pd.DataFrame({"transaction_id": ids, "is_fraud": 1, "known_at": reported})
    labels = pd.concat([honest[clean], disputed[fraud]], ignore_index=True)
    labels = labels.astype({"is_fraud": "int8", "known_at": "datetime64[us, UTC]"})
    if strings:
        for table, names in ((frame, ["transaction_id", "customer_id", "terminal_id"]), (labels, ["transaction_id"])):
            for name in names:
                table[name] = f"{name[0]}-" + table[name].astype(str)
    return frame, labels


def period(frame: pd.DataFrame, labels: pd.DataFrame, from_: date, until: date, known_by: date) -> pd.DataFrame:
    """Return the payments of a period with the labels known by a day, missing where there is none."""
    inside = (frame["event_time"] >= midnight(from_)) & (frame["event_time"] < midnight(until))
    known = labels_as_of(labels, midnight(known_by)).set_index("transaction_id")["is_fraud"]
    part = frame[inside].drop(columns=["true_fraud", "mode", "oracle"]).reset_index(drop=True)
    return part.assign(is_fraud=part["transaction_id"].map(known).astype("Int8"))


def write_inputs(folder: Path, strings: bool = False, world: bool = True, rows: int = 9_000) -> dict[str, Path]:
    """Write what the features and preprocessing stages would have written; return the folders by stage."""
    frame, labels = make_payments(rows, strings=strings)
    inputs = {name: folder / name for name in ("features", "preprocessing", *(["world"] if world else []))}
    train = period(frame, labels, SETTINGS.train_from, SETTINGS.train_until, SETTINGS.test_from)
    train = train[train["is_fraud"].notna()].astype({"is_fraud": "int8"})
    test = period(frame, labels, SETTINGS.test_from, SETTINGS.test_until, SETTINGS.deploy_at)
    for name, table in (("training_set", train), ("test_set", test), ("labels", labels)):
        files.write_parquet(table, inputs["features"] / f"{name}.parquet")
    files.write_json(SCHEMA, inputs["features"] / "schema.json")
    contract = frame[["transaction_id", "event_time", "customer_id", "terminal_id", "amount"]]
    if world:
        channel = pd.Categorical.from_codes(frame["channel_code"].astype(int), SCHEMA["categories"]["channel"])
        contract = contract.assign(channel=channel)
        rng = np.random.default_rng(1)
        born = midnight("1950-01-01") + pd.to_timedelta(rng.integers(0, 20_000, 150), unit="D")
        customers = pd.DataFrame(
            {"customer_id": np.arange(150), "birth_date": born, "region": rng.choice(["a", "b"], 150)}
        )
        files.write_parquet(customers, inputs["preprocessing"] / "customers.parquet")
        truth = frame[["transaction_id", "true_fraud", "mode", "oracle"]].rename(columns={"true_fraud": "is_fraud"})
        files.write_parquet(truth, inputs["world"] / "answer_key" / "truth.parquet")
    files.write_parquet(contract, inputs["preprocessing"] / "transactions.parquet")
    return inputs


def write_models(inputs: dict, folder: Path, data_dir: Path) -> None:
    """Write what training and tuning leave, with small quick models."""
    train = pd.read_parquet(inputs["features"] / "training_set.parquet")
    matrix, fraud = training.feature_matrix(train, SCHEMA), train["is_fraud"].to_numpy()
    models = {"rule": {"threshold": 0.5, "mean": {"average_precision": 0.9}, "std": {}, "run_id": "none"}}
    facts = {
        "trained_from": "a",
        "trained_until": "b",
        "rows": len(train),
        "frauds": int(fraud.sum()),
        "threshold": 0.1,
    }
    names = dict.fromkeys(training.CLASSIFIERS, "training/models") | {"tuned_gradient_boosting": "tuning"}
    small = {"random_forest": {"n_estimators": 5}, "gradient_boosting": {"max_iter": 10}}
    for value, (name, where) in enumerate(names.items()):
        kind = name.removeprefix("tuned_")
        fitted = training.fit_model(kind, matrix, fraud, list(FEATURES), 0, **small.get(kind, {}))
        target = folder / where / ("model" if where == "tuning" else name)
        training.save_model(fitted, SCHEMA, target, name=name, **facts)
        mean = {"average_precision": 0.5 + value / 100}
        models[name] = {"threshold": 0.1, "mean": mean, "std": {"average_precision": 0.1}, "run_id": "gone"}
    past = train[["transaction_id", "amount", "is_fraud"]]
    scored = {name: training.rule_score(train) for name in ("rule", *training.CLASSIFIERS)}
    files.write_parquet(past.assign(**scored), folder / "training" / "out_of_fold.parquet")
    found = training.load_model(folder / "tuning" / "model").predict(matrix)
    files.write_parquet(past.assign(score=found), folder / "tuning" / "out_of_fold.parquet")
    tuned = {"name": "tuned_gradient_boosting", **models.pop("tuned_gradient_boosting"), "dataset_sha256": "ab" * 32}
    files.write_json({"models": models}, folder / "training" / "ladder.json")
    files.write_json(tuned, folder / "tuning" / "best.json")
    inputs |= {"training": folder / "training", "tuning": folder / "tuning"}
