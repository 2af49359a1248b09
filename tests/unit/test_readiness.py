"""The executed checklist: a line that does not hold says what was seen, and each check can fail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lifecycle import files, readiness
from lifecycle.deployment import artifact
from lifecycle.errors import LifecycleError
from lifecycle.readiness import Build, Check, NotReadyError, Session


def answer_of(question: str):
    return next(check.answer for check in readiness.CHECKS if check.question == question)


def test_a_failing_line_is_listed_with_what_was_seen_and_the_others_still_run() -> None:
    def fails(_: Build) -> str:
        raise LifecycleError("The disk is full.")

    checks = [Check("a", "first?", fails), Check("b", "second?", lambda _: "fine")]
    table = readiness.run(SimpleNamespace(), checks)
    assert table["passed"].tolist() == [False, True]
    assert table["seen"].tolist() == ["The disk is full.", "fine"]


def test_every_subject_of_production_readiness_has_a_line_and_no_question_is_asked_twice() -> None:
    subjects = {check.subject for check in readiness.CHECKS}
    assert subjects >= {
        "reliability", "security", "testing", "rollback strategy", "monitoring", "documentation"
    }  # fmt: skip
    assert len({check.question for check in readiness.CHECKS}) == len(readiness.CHECKS)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A build whose package is only as much as `open_package` checks."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"\x08" + bytes(200))
    files.write_json({"features": []}, folder / "feature_schema.json")
    files.write_json({"threshold": 0.5}, folder / "model.json")
    artifact.write_manifest(folder, dict.fromkeys(artifact.IDS, "integer"), {})
    made = Build(SimpleNamespace(), tmp_path)
    made.__dict__.update(package=artifact.open_package(folder), digest=artifact.open_package(folder).digest)
    return made


def test_a_changed_bit_and_a_pickle_are_refused_by_name(build: Build) -> None:
    assert "model.onnx was changed" in answer_of("Is a changed model refused?")(build)
    assert answer_of("Is a file that could run code refused?")(build) == "model.pkl is a pickle"


@pytest.mark.parametrize("question", ["Is a changed model refused?", "Is a file that could run code refused?"])
def test_a_package_that_would_be_served_all_the_same_fails_the_check(
    build: Build, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "open_package", lambda *_: None)
    with pytest.raises(NotReadyError, match="it is served"):
        answer_of(question)(build)


def test_a_failed_request_of_production_fails_the_check(tmp_path: Path) -> None:
    build = Build(SimpleNamespace(), tmp_path)
    build.__dict__["daily"] = pd.DataFrame({"requests": [10, 20], "errors": [0, 0]})
    assert answer_of("Did it fail in production?")(build) == "0 of 30 requests of 2 days failed"
    build.__dict__["daily"] = pd.DataFrame({"requests": [10, 20], "errors": [0, 3]})
    with pytest.raises(NotReadyError, match="3 of 30 requests failed"):
        answer_of("Did it fail in production?")(build)


def test_a_challenger_that_passed_without_a_proven_gain_fails_the_check(tmp_path: Path) -> None:
    def attempt(promoted: bool, low: float) -> dict:
        return {"moment": "2025-12-06T00:00", "promoted": promoted, "gate": {"gain_money_per_day": {"low": low}}}

    def build_with(*attempts: dict) -> Build:
        watched = SimpleNamespace(json=lambda _: {"attempts": list(attempts)})
        return Build(SimpleNamespace(artifact=lambda _: watched), tmp_path)

    check = answer_of("Was each new model let through by the gate alone?")
    assert check(build_with(attempt(False, -1), attempt(True, 5))).startswith("2 challengers, 1 promoted")
    with pytest.raises(NotReadyError, match="2025-12-06"):
        check(build_with(attempt(True, -1)))


def test_a_public_function_without_a_docstring_is_found(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text(
        'def told():\n    """Say it."""\n\n\ndef bare():\n    pass\n\n\ndef _own():\n    pass\n\n\n'
        'class Thing:\n    """A thing."""\n\n    def method(self):\n        pass\n'
    )
    found = readiness.public_functions(package).set_index("name")["documented"].to_dict()
    assert found == {"told": True, "bare": False, "Thing": True, "Thing.method": False}


def test_the_environment_is_compared_with_every_pin_of_the_lock_for_this_machine() -> None:
    lock = (
        f"pandas=={pd.__version__}  # via feast\nnumpy==0.1 ; python_version < '3'\n"
        "uvicorn[standard]==0.0.1\nno-such-package==1\n-e .\n"
    )
    assert readiness.wrong_versions(lock) == ["uvicorn", "no-such-package"]


@pytest.mark.parametrize(
    "change, question",
    [
        ({"exit_code": -9}, "Does it start, answer, and stop in order?"),
        ({"refusals": [400, 500]}, "Does it survive what it should refuse?"),
        ({"ping_after": 503}, "Does it survive what it should refuse?"),
        ({"log": "refused amount 4321.99"}, "Does its log hold customers' data?"),
    ],
)
def test_what_the_service_did_wrong_fails_its_check(tmp_path: Path, change: dict, question: str) -> None:
    good = {
        "ping": 200,
        "refusals": [400, 413],
        "ping_after": 200,
        "answers": pd.DataFrame(),
        "exit_code": 0,
        "log": "",
    }
    build = Build(SimpleNamespace(), tmp_path)
    build.__dict__["service"] = Session(**good)
    answer_of(question)(build)
    build.__dict__["service"] = Session(**good | change)
    with pytest.raises(NotReadyError):
        answer_of(question)(build)
