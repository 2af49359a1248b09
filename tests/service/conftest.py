"""A tiny bank with a real model in a real package, and the fakes on the path."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

# pytest's importlib mode adds no folder to the path, and the tests share their fakes.
sys.path.insert(0, str(Path(__file__).parent))

DAY = "2025-03-01"


def tiny_tables(seed: int = 1, days: int = 62, customers: int = 40, terminals: int = 25) -> dict[str, pd.DataFrame]:
    """Random payments from January on, a few of them fraud that is reported days later."""
    rng = np.random.default_rng(seed)
    n = days * customers * 2
    micros = np.sort(rng.integers(0, days * 86_400_000_000, n))
    times = pd.to_datetime("2025-01-01", utc=True) + pd.to_timedelta(micros, unit="us")
    payments = pd.DataFrame(
        {
            "transaction_id": np.arange(n) + 1,
            "event_time": pd.Series(times).astype("datetime64[us, UTC]"),
            "customer_id": rng.integers(0, customers, n),
            "terminal_id": rng.integers(0, terminals, n),
            "amount": rng.gamma(2.0, 20.0, n).round(2) + 0.01,
            "channel": pd.Categorical(rng.choice(["pos", "online"], n)),
        }
    )
    # One customer stops after a month, so that the packaged history alone would not know them.
    quiet = (payments["customer_id"] == 3) & (payments["event_time"] >= pd.Timestamp("2025-01-20", tz="UTC"))
    payments = payments[~quiet].reset_index(drop=True)
    risk = payments["amount"] / 400 + 0.3 * (payments["terminal_id"] == 5) + 0.1 * (payments["channel"] == "online")
    fraud = rng.random(len(payments)) < risk
    delay = pd.to_timedelta(np.where(fraud, rng.integers(2, 25, len(payments)), 7), unit="D")
    labels = pd.DataFrame(
        {
            "transaction_id": payments["transaction_id"],
            "is_fraud": fraud.astype("int8"),
            "known_at": (payments["event_time"] + delay).astype("datetime64[us, UTC]"),
        }
    )
    return {"transactions": payments, "labels": labels}


@pytest.fixture(scope="session")
def bank(tmp_path_factory):
    """The tables, the features artifact, a model and its package, all of the tiny bank."""
    from datetime import date

    from sklearn.ensemble import HistGradientBoostingClassifier

    from lifecycle import features, files, training
    from lifecycle.deployment import packaging

    root = tmp_path_factory.mktemp("bank")
    tables = tiny_tables()
    (root / "preprocessing").mkdir()
    (root / "features").mkdir()
    for name, table in tables.items():
        files.write_parquet(table, root / "preprocessing" / f"{name}.parquet")
    files.write_json({"channel": ["online", "pos"]}, root / "preprocessing" / "encoding.json")
    calendar = SimpleNamespace(
        train_from=date(2025, 1, 20),
        train_until=date(2025, 2, 10),
        test_from=date(2025, 2, 17),
        test_until=date(2025, 2, 24),
        deploy_at=date.fromisoformat(DAY),
        label_delay_days=7,
    )
    features.build(calendar, {"preprocessing": root / "preprocessing"}, root / "features")
    schema = features.load_schema(root / "features")
    train = pd.read_parquet(root / "features" / "training_set.parquet")
    matrix = training.feature_matrix(train, schema)
    model = HistGradientBoostingClassifier(max_iter=20, min_samples_leaf=3, random_state=0).fit(
        matrix, train["is_fraud"].astype(int)
    )
    (root / "model").mkdir()
    training.save_model(model, schema, root / "model", matrix[:200], name="tiny", threshold=0.2)
    packaging.package(root / "model", root / "features", tables, DAY, root / "package")
    return SimpleNamespace(root=root, tables=tables, package=root / "package", calendar=calendar)
