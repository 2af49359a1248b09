"""A model from somebody else is used only with a card, an allowed license, an origin, and the announced hashes."""

import json
import shutil

import numpy as np
import pytest
from model_data import FEATURES, SCHEMA, make_payments

from lifecycle import files, training
from lifecycle.consortium import check_pretrained, load_pretrained, publish
from lifecycle.errors import LifecycleError

CARD = {
    "name": "offered",
    "license": "CC-BY-4.0",
    "provenance": {
        "publisher": "somebody",
        "trained_on": "payments",
        "dataset_sha256": "0" * 64,
        "code_version": "1",
        "seed": 0,
        "labels_as_of": "2025-09-01",
    },
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    frame, _ = make_payments(2_000)
    matrix, fraud = training.feature_matrix(frame, SCHEMA), frame["true_fraud"].to_numpy(dtype=int)
    fitted = training.fit_model("gradient_boosting", matrix, fraud, list(FEATURES), 0, max_iter=5)
    folder = tmp_path_factory.mktemp("offered")
    training.save_model(fitted, SCHEMA, folder, name="offered")
    return folder, publish(folder, CARD), matrix, fitted


@pytest.fixture
def offered(original, tmp_path):
    folder, digest, _, _ = original
    return shutil.copytree(folder, tmp_path / "offered"), digest


def republish(folder, **changes):
    """Publish the folder with another card, and return its digest: an honest publisher of a poor card."""
    card = {**CARD, **changes}
    return publish(folder, {name: value for name, value in card.items() if value is not None})


def test_a_checked_model_scores_as_its_publisher_says_and_carries_its_card(original):
    folder, digest, matrix, fitted = original
    model = load_pretrained(folder, digest)
    np.testing.assert_allclose(model.predict(matrix), fitted.predict_proba(matrix)[:, 1], atol=1e-5)
    assert model.facts["card"]["license"] == "CC-BY-4.0"


@pytest.mark.parametrize("name", training.MODEL_FILES)
def test_one_changed_byte_in_any_file_is_refused(offered, name):
    folder, digest = offered
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(LifecycleError, match=f"{name} is missing or is not the file that the card names"):
        load_pretrained(folder, digest)


@pytest.mark.parametrize("name", training.MODEL_FILES)
def test_a_missing_file_is_refused(offered, name):
    folder, digest = offered
    (folder / name).unlink()
    with pytest.raises(LifecycleError, match=f"{name} is missing"):
        load_pretrained(folder, digest)


def test_who_swaps_the_model_and_rewrites_its_hashes_still_lacks_the_announced_digest(offered, original):
    folder, digest = offered
    _, _, matrix, _ = original
    other = training.fit_model("gradient_boosting", matrix, (matrix[:, 0] > 50).astype(int), list(FEATURES), 0)
    training.save_model(other, SCHEMA, folder, name="offered")
    assert publish(folder, CARD) != digest
    with pytest.raises(LifecycleError, match="not the card that was announced"):
        load_pretrained(folder, digest)


def test_a_model_without_a_card_is_refused(offered):
    folder, digest = offered
    (folder / "card.json").unlink()
    with pytest.raises(LifecycleError, match="has no model card"):
        check_pretrained(folder, digest)


@pytest.mark.parametrize(
    "license_, sentence", [(None, "names no license"), ("", "names no license"), ("CC-BY-NC-4.0", "not on the list")]
)
def test_a_license_that_is_missing_or_not_allowed_is_refused(offered, license_, sentence):
    folder, _ = offered
    with pytest.raises(LifecycleError, match=sentence):
        check_pretrained(folder, republish(folder, license=license_))


def test_the_list_of_allowed_licenses_is_the_readers(offered):
    folder, digest = offered
    assert check_pretrained(folder, digest)["name"] == "offered"
    with pytest.raises(LifecycleError, match="CC-BY-4.0, which is not on the list"):
        check_pretrained(folder, digest, licenses=("MIT",))


@pytest.mark.parametrize("gone", sorted(CARD["provenance"]))
def test_an_origin_with_a_gap_is_refused_and_the_gap_is_named(offered, gone):
    folder, _ = offered
    origin = {name: value for name, value in CARD["provenance"].items() if name != gone}
    with pytest.raises(LifecycleError, match=rf"\({gone} missing\)"):
        check_pretrained(folder, republish(folder, provenance=origin))


def test_a_card_without_hashes_is_refused(offered):
    folder, _ = offered
    card = json.loads((folder / "card.json").read_text())
    del card["sha256"]
    files.write_json(card, folder / "card.json")
    with pytest.raises(LifecycleError, match="model.onnx is missing or is not the file"):
        check_pretrained(folder, files.sha256(folder / "card.json"))
