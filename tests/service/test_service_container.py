"""The Dockerfile's steps as plain processes, and the two entry points of the container contract."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from lifecycle.container import channel_file, main, read_hyperparameters
from lifecycle.deployment import running
from lifecycle.deployment.artifact import open_package, pack
from lifecycle.errors import LifecycleError

ROOT = Path(__file__).resolve().parents[2]


def steps(kind):
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [line.removeprefix(kind).strip() for line in lines if line.startswith(f"{kind} ")]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A folder that the COPY and RUN steps filled: what a container would hold beside the base image."""
    root = tmp_path_factory.mktemp("image")
    for step in steps("COPY"):
        *sources, target = step.split()
        for source in sources:
            if (ROOT / source).is_dir():
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, root / "program" / target, ignore=skip)
            else:
                (root / "program").mkdir(exist_ok=True)
                shutil.copyfile(ROOT / source, root / "program" / target / Path(source).name)
    # The locked packages are those of this environment; only the package itself is installed anew, from the copies.
    pip = f"{sys.executable} -m pip"
    environ = {**os.environ, "PIP_TARGET": str(root / "site"), "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    environ.pop("PYTHONPATH", None)
    for step in steps("RUN"):
        command = step.replace("pip install", f"{pip} install")
        done = subprocess.run(
            command, shell=True, cwd=root / "program", env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return root


def start(image, base, what, **environ):
    """Start the entry point from the image's own files, on the loopback address."""
    (entry,) = steps("ENTRYPOINT")
    command = [part.replace("0.0.0.0", "127.0.0.1") for part in json.loads(entry)]
    command[0] = sys.executable
    values = {**os.environ, "PYTHONPATH": str(image / "site"), "SAGEMAKER_BASE_DIR": str(base), **environ}
    return subprocess.Popen([*command, what], cwd=image, env=values, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("layout", ["unpacked", "model.tar.gz"])
def test_serve_answers_and_drains_within_the_platforms_times(bank, image, tmp_path, layout):
    if layout == "unpacked":
        shutil.copytree(bank.package, tmp_path / "model")
    else:
        (tmp_path / "model").mkdir()
        pack(bank.package, tmp_path / "model" / "model.tar.gz")
    port = running.free_port()
    process = start(image, tmp_path, "serve", SAGEMAKER_BIND_TO_PORT=str(port))
    try:
        service = running.Running(process, "127.0.0.1", port, Path("unused"))
        assert running._wait_healthy(service, 240), process.stderr.read()
        payment = {"transaction_id": 1, "event_time": "2025-03-01T10:00:00Z", "customer_id": 1, "terminal_id": 2}
        assert service.invoke({**payment, "amount": 5.0})["decision"] in ("review", "approve")
        assert (tmp_path / "state" / "events.db").exists()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0 and time.monotonic() - began < 30
    finally:
        process.kill()


def test_serve_without_a_model_is_one_sentence(image, tmp_path):
    process = start(image, tmp_path, "serve")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and said.strip().splitlines()[-1].startswith("There is no model folder")


def test_the_default_command_and_the_port_are_those_of_the_contract():
    assert steps("CMD") == ['["serve"]'] and steps("EXPOSE") == ["8080"]
    assert all(shlex.split(step) for step in steps("RUN"))


def platform_folder(tmp_path, payments, **hyperparameters):
    (tmp_path / "input" / "config").mkdir(parents=True)
    (tmp_path / "input" / "data" / "training").mkdir(parents=True)
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    payments.to_csv(tmp_path / "input" / "data" / "training" / "payments.csv", index=False)
    return tmp_path


def test_train_leaves_a_package_that_serves_and_its_reports(bank, image, tmp_path):
    tables = bank.tables
    frauds = tables["labels"].drop_duplicates("transaction_id").set_index("transaction_id")["is_fraud"]
    payments = tables["transactions"].assign(is_fraud=tables["transactions"]["transaction_id"].map(frauds))
    base = platform_folder(tmp_path, payments, trials="1", seed="3")
    process = start(image, base, "train", OMP_NUM_THREADS="1")
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said[-2_000:]
    package = open_package(base / "model")
    assert package.threshold > 0 and not (base / "output" / "failure").exists()
    scores = pd.read_parquet(base / "output" / "data" / "scores.parquet")
    assert len(scores) > 100 and (base / "output" / "data" / "report.html").exists()


def test_a_training_that_fails_says_why_in_the_failure_file(bank, tmp_path, monkeypatch, capsys):
    base = platform_folder(tmp_path, bank.tables["transactions"].drop(columns="amount"))
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
    assert main(["train"]) == 1
    failure = (base / "output" / "failure").read_text()
    assert "amount" in failure and len(failure) <= 1024
    assert not (base / "model").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [({"depth": "3"}, "no hyperparameter 'depth'"), ({"seed": "x"}, "cannot be read"), ([], "must be an object")],
)
def test_a_wrong_hyperparameter_is_named(tmp_path, given, words):
    (tmp_path / "hyperparameters.json").write_text(json.dumps(given))
    with pytest.raises(LifecycleError, match=words):
        read_hyperparameters(tmp_path / "hyperparameters.json")


def test_a_channel_holds_one_file(tmp_path):
    assert channel_file(tmp_path / "none") is None
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(LifecycleError, match="holds 2 files"):
        channel_file(tmp_path)
