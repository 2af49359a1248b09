"""The production-readiness checklist, executed: each line is a check that runs on the artifacts of this build.

A checklist that people tick grows old unnoticed. Here `run` does what each line says and writes down what it saw.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import ipaddress
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from packaging.requirements import Requirement

from lifecycle import contracts, deployment, training
from lifecycle.deployment import artifact, messages, running
from lifecycle.errors import LifecycleError
from lifecycle.pipeline import Pipeline
from lifecycle.settings import ROOT
from lifecycle.training.tracking import REGISTERED_MODEL, open_tracking


class NotReadyError(LifecycleError):
    """A line of the checklist that does not hold. The message says what was seen."""


@dataclass(frozen=True)
class Check:
    """One line of the checklist.

    Parameters
    ----------
    subject
        One of the six subjects of production readiness, or "repeatability".
    question
        What is asked, as a person would.
    answer
        Does it and returns what it saw; raises a `LifecycleError` if it does not hold.
    """

    subject: str
    question: str
    answer: Callable[[Build], str]


HOSTILE = (b"", b"{", b"[" * 10_000, b'{"amount": NaN}', bytes(range(256)), b" " * 7_000_000)
"""Bodies that a service has to refuse without harm."""

MARKED = {"transaction_id": 987_654_321, "amount": 4321.99, "customer_id": "no-such-customer"}
"""A payment to be refused, whose values are easy to find in a log."""

SENT = 500
"""Payments sent to the service, to compare with the batch job."""


@dataclass(frozen=True)
class Session:
    """What one run of the service showed, from its start to its end."""

    ping: int
    refusals: list[int]
    ping_after: int
    answers: pd.DataFrame
    exit_code: int
    log: str


class Build:
    """What the checks look at: the artifacts of a pipeline, and a copy of the package to start and to spoil.

    Parameters
    ----------
    pipeline
        Whose artifacts; what is missing is built.
    work
        A folder for what the checks write.
    """

    def __init__(self, pipeline: Pipeline, work: Path) -> None:
        self.pipeline = pipeline
        self.work = work

    @cached_property
    def package(self) -> artifact.Package:
        """The deployed package, unpacked from its archive."""
        return artifact.unpack(self.pipeline.artifact("deployment").file("model.tar.gz"), self.work / "model")

    @cached_property
    def digest(self) -> str:
        """The package's digest as recorded outside of it."""
        return self.pipeline.artifact("deployment").json("info")["digest"]

    @cached_property
    def daily(self) -> pd.DataFrame:
        """One row for each production day that the monitor saw."""
        return self.pipeline.artifact("monitoring").frame("daily")

    @cached_property
    def alarms(self) -> dict[str, Any]:
        """The limits of the monitor, and what they found."""
        return self.pipeline.artifact("monitoring").json("alarms")

    @cached_property
    def service(self) -> Session:
        """One run of the service: healthy, attacked, healthy again, asked for scores, and stopped."""
        scores = self.pipeline.artifact("deployment").frame("batch_scores")
        payments = self.pipeline.artifact("preprocessing").frame("transactions")
        first = payments[payments["transaction_id"].isin(scores["transaction_id"])].head(SENT)

        def refused(body: bytes | str) -> int:
            return service.call("/invocations", body, "application/json")[0]

        with running.start(self.package.folder, clock="event") as service:
            ping = service.call("/ping")[0]
            refusals = [refused(body) for body in (*HOSTILE, json.dumps(MARKED))]
            after = service.call("/ping")[0]
            answers = pd.DataFrame(service.invoke(messages.as_records(first)))
            return Session(ping, refusals, after, answers, service.stop(), service.log.read_text())

    def spoiled(self, change: Callable[[Path], object]) -> str:
        """Return what refuses a copy of the package after a change, or an empty string if it would be served."""
        copy = Path(tempfile.mkdtemp(dir=self.work)) / "model"
        shutil.copytree(self.package.folder, copy)
        change(copy)
        try:
            artifact.open_package(copy, self.digest)
        except artifact.ArtifactError as error:
            return str(error).replace(f" in {copy}", "")
        return ""


def run(pipeline: Pipeline | None = None, checks: Sequence[Check] | None = None) -> pd.DataFrame:
    """Run the checklist.

    Parameters
    ----------
    pipeline
        Whose artifacts to look at; by default those of the present settings.
    checks
        By default `CHECKS`.

    Returns
    -------
    DataFrame
        One row a check: subject, question, passed (bool), seen (str).
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="readiness-") as work:
        build = Build(pipeline or Pipeline(), Path(work))
        for check in CHECKS if checks is None else checks:
            try:
                passed, seen = True, check.answer(build)
            except LifecycleError as error:
                passed, seen = False, str(error).replace(f"{work}/", "")
            rows.append({"subject": check.subject, "question": check.question, "passed": passed, "seen": seen})
    return pd.DataFrame(rows, columns=["subject", "question", "passed", "seen"])


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise NotReadyError(sentence)


def _starts_and_drains(build: Build) -> str:
    status, code = build.service.ping, build.service.exit_code
    _require(status == 200 and code == 0, f"/ping said {status}, and the service ended with exit code {code}.")
    return f"/ping said {status}; after SIGTERM the service ended with exit code {code}"


def _survives_garbage(build: Build) -> str:
    answers, healthy = build.service.refusals, build.service.ping_after
    _require(
        all(400 <= status < 500 for status in answers) and healthy == 200,
        f"Hostile bodies were answered with {answers}, and /ping with {healthy}.",
    )
    return f"{len(answers)} hostile bodies: {len(answers)} refusals (4xx), and /ping still says {healthy}"


def _no_errors_in_production(build: Build) -> str:
    requests, errors = int(build.daily["requests"].sum()), int(build.daily["errors"].sum())
    _require(errors == 0, f"{errors:,} of {requests:,} requests failed.")
    return f"{errors} of {requests:,} requests of {len(build.daily)} days failed"


def _refuses_a_changed_file(build: Build) -> str:
    def change(folder: Path) -> None:
        with open(folder / "model.onnx", "r+b") as file:
            file.seek(100)
            byte = file.read(1)[0]
            file.seek(100)
            file.write(bytes([byte ^ 1]))

    seen = build.spoiled(change)
    _require(
        "model.onnx" in seen, f"A model with one changed bit is not refused by its name: {seen or 'it is served'}."
    )
    return f"one bit changed: {seen.split(' (')[0]}"


def _refuses_a_pickle(build: Build) -> str:
    seen = build.spoiled(lambda folder: (folder / "model.pkl").write_bytes(b"\x80\x04."))
    _require("pickle" in seen, f"A pickle beside the model is not refused: {seen or 'it is served'}.")
    return seen.split(":")[0]


def _listens_on_loopback(_: Build) -> str:
    host = inspect.signature(deployment.serve).parameters["host"].default
    _require(ipaddress.ip_address(host).is_loopback, f"The service listens on {host} unless told otherwise.")
    return f"the default is {host}"


def _keeps_payments_out_of_its_log(build: Build) -> str:
    found = [str(value) for value in MARKED.values() if str(value) in build.service.log]
    _require(not found, f"The log of the service holds {', '.join(found)} of a payment.")
    return (
        f"a refused payment left none of its {len(MARKED)} values in {len(build.service.log.splitlines())} lines of log"
    )


def _tables_keep_their_contracts(build: Build) -> str:
    collected, rows = build.pipeline.artifact("collection"), 0
    for name, schema in {"transactions": contracts.TRANSACTIONS, "labels": contracts.LABELS}.items():
        rows += len(contracts.check(collected.frame(name), schema, f"{name}.parquet"))
    return f"{rows:,} rows of transactions and labels checked"


def _service_and_batch_agree(build: Build) -> str:
    scores = build.pipeline.artifact("deployment").frame("batch_scores")
    both = build.service.answers.merge(scores, on="transaction_id", suffixes=("", "_batch"))
    differ = int(((both["score"] - both["score_batch"]).abs() > 1e-6).sum())
    _require(len(both) == SENT and differ == 0, f"{differ} of {len(both)} scores differ from the batch job's.")
    return f"{differ} of {len(both)} scores of the service differ from the batch job's"


def _model_agrees_with_its_record(build: Build) -> str:
    table = build.pipeline.artifact("deployment").frame("batch_features")
    scores = build.pipeline.artifact("deployment").frame("batch_scores")
    model = training.load_model(build.package.folder)
    made = model.predict(training.feature_matrix(table, model.schema))
    gap = float(np.abs(made - scores.set_index("transaction_id").loc[table["transaction_id"], "score"]).max())
    _require(gap <= 1e-6, f"The packaged model gives scores that are up to {gap:.1g} from the recorded ones.")
    return f"{len(table):,} scores computed again, largest difference {gap:.1g}"


def _registry_names_what_is_deployed(build: Build) -> str:
    from lifecycle.files import sha256

    client, _ = open_tracking(build.pipeline.settings.data_dir)
    version = client.get_model_version_by_alias(REGISTERED_MODEL, "champion")
    deployed = sha256(build.package.folder / "model.onnx")
    _require(
        version.tags.get("onnx_sha256") == deployed,
        f"The alias 'champion' names version {version.version}, whose model is not the deployed one.",
    )
    return f"the alias 'champion' names version {version.version}, the model that is deployed ({deployed[:12]})"


def _every_day_has_its_report(build: Build) -> str:
    watched = build.pipeline.artifact("monitoring")
    names = {name.split("/")[1] for name in watched.manifest["files"] if name.endswith("constraint_violations.json")}
    days = {f"{day:%Y-%m-%d}" for day in build.daily["day"]}
    _require(
        days <= names,
        f"{len(days - names)} of {len(days)} days have no report, the first is {min(days - names, default='')}.",
    )
    return f"{len(days)} of {len(days)} days have their statistics and violations"


def _alarms_state_their_rate(build: Build) -> str:
    limits = build.alarms["limits"]
    finite = [name for name, value in limits.items() if np.isfinite(value)]
    _require(len(finite) == len(limits) > 0, "An alarm has no limit.")
    note, page = build.alarms["note_days"], build.alarms["page_days"]
    return (
        f"{len(limits)} limits: one false note in {note:.0f} clean days, one false page of missed fraud in {page:.0f}"
    )


def _retraining_was_gated(build: Build) -> str:
    attempts = build.pipeline.artifact("monitoring").json("retraining")["attempts"]
    wrong = [a["moment"] for a in attempts if a["promoted"] != (a["gate"]["gain_money_per_day"]["low"] > 0)]
    _require(not wrong, f"The challenger of {wrong[0][:10] if wrong else ''} passed without a proven gain.")
    return (
        f"{len(attempts)} challengers, {sum(a['promoted'] for a in attempts)} promoted, each on a proven gain in money"
    )


def public_functions(folder: Path) -> pd.DataFrame:
    """List the public functions and methods under a folder: module, name, documented (bool).

    A nested function and what begins with an underscore, or lies in a class or module that does, is not public.
    """
    rows = []
    for path in sorted(folder.rglob("*.py")):
        module = path.relative_to(folder.parent).with_suffix("").as_posix()
        todo: list[tuple[str, ast.AST]] = [("", ast.parse(path.read_text(encoding="utf-8")))]
        while todo:
            within, node = todo.pop()
            for child in ast.iter_child_nodes(node):
                if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    continue
                if child.name.startswith("_"):
                    continue
                rows.append((module, within + child.name, ast.get_docstring(child) is not None))
                if isinstance(child, ast.ClassDef):
                    todo.append((f"{within}{child.name}.", child))
    return pd.DataFrame(rows, columns=["module", "name", "documented"])


def _public_code_is_documented(_: Build) -> str:
    found = public_functions(ROOT / "lifecycle")
    bare = found[~found["documented"]]
    first = "".join(bare["module"].head(1) + ": " + bare["name"].head(1))
    _require(bare.empty, f"{len(bare)} public functions or classes have no docstring; the first is {first}.")
    return f"{len(found)} of {len(found)} public functions and classes have a docstring"


def _artifacts_say_what_made_them(build: Build) -> str:
    stages = ("collection", "preprocessing", "features", "training", "tuning", "evaluation", "deployment", "monitoring")
    checked = 0
    for stage in stages:
        made = build.pipeline.artifact(stage)
        for name in made.manifest["files"]:
            made.file(name)  # raises if its hash is another
            checked += 1
    return f"{checked} files of {len(stages)} artifacts have the hash that their manifest records"


def wrong_versions(lock: str) -> list[str]:
    """Return the packages of a lock file that are not installed in the version that it pins for this machine.

    Examples
    --------
    >>> wrong_versions("pandas==0.1\\nno-such-package==1.0 ; python_version < '3'\\n-e .\\n")
    ['pandas']
    """
    wrong = []
    for line in lock.splitlines():
        text = line.split("#")[0].rstrip(" \\")
        if not text or text.lstrip().startswith("-"):
            continue
        pin = Requirement(text)
        if pin.marker is None or pin.marker.evaluate():
            try:
                if importlib.metadata.version(pin.name) not in pin.specifier:
                    wrong.append(pin.name)
            except importlib.metadata.PackageNotFoundError:
                wrong.append(pin.name)
    return wrong


def _environment_is_the_lock(_: Build) -> str:
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    wrong = wrong_versions(lock)
    _require(not wrong, f"{len(wrong)} packages differ from requirements.txt, among them {''.join(wrong[:1])}.")
    return "every package has the version that requirements.txt pins for this machine"


def _same_seed_same_world(build: Build) -> str:
    from lifecycle import world

    settings = build.pipeline.settings.with_(customers=200, terminals=400)
    first, second = (world.fingerprint(world.payments(settings)) for _ in range(2))
    _require(first == second, "The same seed gave two different banks.")
    return f"two runs with one seed gave the same bank ({first[:12]})"


CHECKS = (
    Check("reliability", "Does it start, answer, and stop in order?", _starts_and_drains),
    Check("reliability", "Does it survive what it should refuse?", _survives_garbage),
    Check("reliability", "Did it fail in production?", _no_errors_in_production),
    Check("security", "Is a changed model refused?", _refuses_a_changed_file),
    Check("security", "Is a file that could run code refused?", _refuses_a_pickle),
    Check("security", "Who can reach it?", _listens_on_loopback),
    Check("security", "Does its log hold customers' data?", _keeps_payments_out_of_its_log),
    Check("testing", "Do the tables keep their contracts?", _tables_keep_their_contracts),
    Check("testing", "Do service and batch job agree?", _service_and_batch_agree),
    Check("testing", "Is the packaged model the evaluated one?", _model_agrees_with_its_record),
    Check("rollback strategy", "Does the registry know what is deployed?", _registry_names_what_is_deployed),
    Check("monitoring", "Was every day looked at?", _every_day_has_its_report),
    Check("monitoring", "Does each alarm have a limit with a stated rate?", _alarms_state_their_rate),
    Check("monitoring", "Was each new model let through by the gate alone?", _retraining_was_gated),
    Check("documentation", "Can a stranger read the code?", _public_code_is_documented),
    Check("documentation", "Does each artifact say what made it?", _artifacts_say_what_made_them),
    Check("repeatability", "Is the environment the locked one?", _environment_is_the_lock),
    Check("repeatability", "Does the same seed give the same data?", _same_seed_same_world),
)  # fmt: skip
"""The checklist, in the order of the subjects of production readiness."""
