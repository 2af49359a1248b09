"""Packages in MLflow's registry: an alias leads to a checked package, and to nothing else."""

import json
import shutil

import pytest

from lifecycle.deployment import artifact, registry, releases
from lifecycle.deployment.artifact import ArtifactError
from lifecycle.errors import LifecycleError
from lifecycle.training import tracking


@pytest.fixture(scope="module")
def data(bank, tmp_path_factory):
    """A store with the package as the champion."""
    folder = tmp_path_factory.mktemp("registry")
    assert registry.register(folder, bank.package) == "1"
    return folder


@pytest.fixture
def store(data, tmp_path):
    return shutil.copytree(data, tmp_path / "data")


def second(bank, folder):
    """A package with another threshold, in order in itself."""
    other = shutil.copytree(bank.package, folder)
    facts = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(facts | {"threshold": 0.4}))
    first = artifact.open_package(bank.package)
    artifact.write_manifest(
        other, first.manifest["ids"], first.manifest["attributes"], first_day=first.manifest["first_day"]
    )
    return other


def test_the_alias_leads_to_the_package_and_its_tags_say_the_hashes(bank, store):
    package = registry.follow(store)
    assert package.digest == artifact.open_package(bank.package).digest
    client, _ = tracking.open_tracking(store)
    version = client.get_model_version_by_alias("fraud-package", "champion")
    assert version.tags["package_sha256"] == package.digest
    assert version.tags["onnx_sha256"] == package.manifest["files"]["model.onnx"]
    assert version.tags["feature_schema_sha256"] == package.manifest["files"]["feature_schema.json"]


def test_the_same_package_is_registered_once_and_another_one_moves_the_alias(bank, store, tmp_path):
    assert registry.register(store, bank.package) == "1"
    assert registry.register(store, second(bank, tmp_path / "second")) == "2"
    assert registry.follow(store).threshold == 0.4
    assert registry.register(store, bank.package, alias="candidate") == "3"
    assert registry.follow(store).threshold == 0.4 and registry.follow(store, "candidate").threshold == 0.2


def test_a_service_that_follows_releases_gets_the_alias(bank, store, tmp_path):
    assert registry.release(store, tmp_path / "releases") == "v1"
    registry.register(store, second(bank, tmp_path / "second"))
    assert registry.release(store, tmp_path / "releases") == registry.release(store, tmp_path / "releases") == "v2"
    assert releases.read(tmp_path / "releases") == releases.Aliases("v2", "v1")
    assert artifact.open_package(tmp_path / "releases" / "v2").threshold == 0.4


def kept(store):
    (folder,) = (store / "mlflow" / "packages").iterdir()
    return folder


SPOILED = {
    "tampered": (lambda bank, folder: (folder / "model.onnx").write_bytes(b"\x08\x07"), "model.onnx"),
    "mismatched": (
        lambda bank, folder: (shutil.rmtree(folder), second(bank, folder)),
        "package.json .* not the one that was registered",
    ),
    "pickled": (lambda bank, folder: (folder / "extra.pkl").write_bytes(b"\x80\x04."), "extra.pkl .* is a pickle"),
    "lost": (lambda bank, folder: shutil.rmtree(folder), "no model folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_copy_is_refused_by_name(bank, store, tmp_path, case):
    spoil, reason = SPOILED[case]
    spoil(bank, kept(store))
    with pytest.raises(ArtifactError, match=f"Version 1 of fraud-package .champion. is refused: .*{reason}"):
        registry.follow(store)
    with pytest.raises(ArtifactError):
        registry.release(store, tmp_path / "releases")
    assert not (tmp_path / "releases").exists()
    assert registry.register(store, bank.package) == "1", "registering it again mends the copy"
    assert registry.follow(store).threshold == 0.2


def test_a_spoiled_package_is_not_registered(bank, store, tmp_path):
    other = second(bank, tmp_path / "second")
    (other / "model.pkl").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="model.pkl .* is a pickle"):
        registry.register(store, other)


def test_an_unknown_alias_is_one_sentence(store, tmp_path):
    with pytest.raises(LifecycleError, match="no alias 'newest'"):
        registry.follow(store, "newest")
    with pytest.raises(LifecycleError, match="no alias 'champion'"):
        registry.follow(tmp_path / "empty")
