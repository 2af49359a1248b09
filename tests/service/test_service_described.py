"""The service is fuzzed from its own description: what it says of itself is what it does."""

import shutil

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lifecycle.deployment.scorer import Scorer
from lifecycle.deployment.service import create_app

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = {"/ping", "/execution-parameters", "/metrics", "/invocations"}


@pytest.fixture(scope="session")
def described(bank, tmp_path_factory):
    own = shutil.copytree(bank.package, tmp_path_factory.mktemp("described") / "own")
    app = create_app(Scorer.open(own))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("described")
seen: set[str] = set()


@schema.parametrize()
@hypothesis.settings(max_examples=150, deadline=None)
def test_every_operation_answers_as_its_description_says(case):
    seen.add(case.operation.path)
    case.call_and_validate(checks=CHECKS)


def test_no_operation_was_left_out():
    assert seen == OPERATIONS
