"""The service is fuzzed from its own description: what it says of itself is what it does."""

import shutil

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lifecycle.deployment.scorer import Scorer
from lifecycle.deployment.service import create_app

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = ("GET /ping", "GET /execution-parameters", "GET /metrics", "POST /invocations")


@pytest.fixture(scope="session")
def described(bank, tmp_path_factory):
    """The operations that the service of the tiny bank describes."""
    own = shutil.copytree(bank.package, tmp_path_factory.mktemp("described") / "own")
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Scorer.open(own)))
    return {operation.label: operation for operation in (found.ok() for found in schema.get_all_operations())}


def test_every_operation_is_fuzzed(described):
    assert set(described) == set(OPERATIONS)


AS_DESCRIBED, OTHERWISE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


# Only /invocations takes anything that one could send wrongly.
@pytest.mark.parametrize(("label", "mode"), [*((one, AS_DESCRIBED) for one in OPERATIONS), (OPERATIONS[-1], OTHERWISE)])
def test_an_operation_answers_as_its_description_says(described, label, mode):
    operation, statuses = described[label], set()

    @hypothesis.settings(max_examples=200, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case):
        statuses.add(case.call_and_validate(checks=CHECKS).status_code)

    fuzz()
    assert (200 if mode is AS_DESCRIBED else 400) in statuses
