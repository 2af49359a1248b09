"""A package is served only if it is whole, unchanged and free of code."""

import io
import json
import pickle
import shutil
import tarfile

import pytest

from lifecycle.deployment import artifact
from lifecycle.deployment.artifact import ArtifactError, open_package, pack, unpack, write_manifest

IDS = dict.fromkeys(("transaction_id", "customer_id", "terminal_id"), "integer")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "online").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"\x08\x0agraph")
    (folder / "feature_schema.json").write_text('{"features": []}')
    (folder / "model.json").write_text('{"threshold": 0.3}')
    (folder / "online" / "online_store.db").write_bytes(b"state")
    write_manifest(folder, IDS, {"channel": "text"}, as_of="2025-11-03")
    return folder


def test_a_whole_package_opens_with_its_threshold_and_format(folder):
    package = open_package(folder)
    assert package.threshold == 0.3
    assert package.record_format.attributes == {"channel": "text"}


@pytest.mark.parametrize("name", ["model.onnx", "feature_schema.json", "model.json"])
def test_a_changed_file_is_refused_by_name(folder, name):
    with open(folder / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match=f"{name} .* was changed after it was packaged"):
        open_package(folder)


@pytest.mark.parametrize(
    "name", ["model.onnx", "feature_schema.json", "model.json", "package.json", "online/online_store.db"]
)
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"incomplete: {name} is missing"):
        open_package(folder)


def test_the_refreshed_state_may_change(folder):
    (folder / "online" / "online_store.db").write_bytes(b"the next day")
    open_package(folder)


def test_files_beside_the_package_do_no_harm(folder):
    (folder / "report.html").write_text("<p>report</p>")
    open_package(folder)


@pytest.mark.parametrize("name", ["model.pkl", "extra.joblib", "online/x.PICKLE"])
def test_a_pickle_is_refused_by_its_name(folder, name):
    (folder / name).write_text("anything")
    with pytest.raises(ArtifactError, match=f"{name} in .* is a pickle"):
        open_package(folder)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_calls_itself_onnx_is_refused_even_with_the_right_hash(folder, protocol):
    (folder / "model.onnx").write_bytes(pickle.dumps({"a": 1}, protocol))
    write_manifest(folder, IDS, {})
    with pytest.raises(ArtifactError, match="model.onnx in .* is a pickle"):
        open_package(folder)


def test_a_registered_digest_finds_a_forger_who_also_changed_the_hashes(folder):
    digest = open_package(folder).digest
    open_package(folder, digest)
    (folder / "model.json").write_text('{"threshold": 0.99}')
    write_manifest(folder, IDS, {"channel": "text"}, as_of="2025-11-03")
    open_package(folder)
    with pytest.raises(ArtifactError, match="not the one that was registered"):
        open_package(folder, digest)


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": {}, "ids": {}, "attributes": {}}', "null"])
def test_a_damaged_manifest_is_refused(folder, content):
    (folder / "package.json").write_text(content)
    with pytest.raises(ArtifactError, match="package.json in .* is damaged"):
        open_package(folder)


def test_a_manifest_without_the_hash_of_the_model_is_refused(folder):
    manifest = json.loads((folder / "package.json").read_text())
    del manifest["files"]["model.onnx"]
    (folder / "package.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="no hash for model.onnx"):
        open_package(folder)


def test_a_manifest_that_names_a_file_outside_is_refused(folder):
    manifest = json.loads((folder / "package.json").read_text())
    manifest["files"]["../secret"] = "0"
    (folder / "package.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="outside"):
        open_package(folder)


@pytest.mark.parametrize("facts", ["{}", '{"threshold": "low"}', '{"threshold": true}', "[]"])
def test_a_model_without_a_threshold_is_refused(folder, facts):
    (folder / "model.json").write_text(facts)
    write_manifest(folder, IDS, {})
    with pytest.raises(ArtifactError, match="names no threshold"):
        open_package(folder)


def test_an_archive_unpacks_to_the_same_package(folder, tmp_path):
    pack(folder, tmp_path / "model.tar.gz")
    assert unpack(tmp_path / "model.tar.gz", tmp_path / "new").digest == open_package(folder).digest


def test_an_archive_has_its_files_at_the_root_and_the_same_bytes_each_time(folder, tmp_path):
    pack(folder, tmp_path / "a.tar.gz")
    pack(folder, tmp_path / "b.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        assert "model.onnx" in tar.getnames()


def _archive(path, entries):
    with tarfile.open(path, "w:gz") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def _link(name, target, kind):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        tarfile.TarInfo("../outside.txt"),
        tarfile.TarInfo("/tmp/outside.txt"),
        tarfile.TarInfo("a/../../outside.txt"),
        _link("model.onnx", "/etc/passwd", tarfile.SYMTYPE),
        _link("model.onnx", "../x", tarfile.LNKTYPE),
        _link("pipe", "", tarfile.FIFOTYPE),
    ],
    ids=lambda entry: f"{entry.name}-{entry.type!r}",
)
def test_an_archive_that_reaches_outside_is_refused_and_leaves_nothing(tmp_path, entry):
    target = tmp_path / "deep" / "new"
    with pytest.raises(ArtifactError):
        unpack(_archive(tmp_path / "bad.tar.gz", [(entry, b"")]), target)
    assert not target.exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "LARGEST_ARCHIVE", 10)
    with pytest.raises(ArtifactError, match="more than a model needs"):
        unpack(_archive(tmp_path / "bomb.tar.gz", [(tarfile.TarInfo("a"), b"x" * 100)]), tmp_path / "new")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b\x08\x00broken"])
def test_a_damaged_archive_is_one_sentence(tmp_path, content):
    (tmp_path / "model.tar.gz").write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be unpacked"):
        unpack(tmp_path / "model.tar.gz", tmp_path / "new")


def test_a_cut_archive_is_refused(folder, tmp_path):
    pack(folder, tmp_path / "model.tar.gz")
    whole = (tmp_path / "model.tar.gz").read_bytes()
    for end in range(20, len(whole), 40):
        (tmp_path / "model.tar.gz").write_bytes(whole[:end])
        with pytest.raises(ArtifactError):
            unpack(tmp_path / "model.tar.gz", tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_an_archive_with_a_flipped_bit_is_refused_unless_its_content_is_the_same(folder, tmp_path):
    pack(folder, tmp_path / "model.tar.gz")
    whole = (tmp_path / "model.tar.gz").read_bytes()
    refused = 0
    places = range(0, len(whole), 7)
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 0x10
        (tmp_path / "model.tar.gz").write_bytes(broken)
        try:
            unpack(tmp_path / "model.tar.gz", tmp_path / "new")
        except ArtifactError:
            assert not (tmp_path / "new").exists()
            refused += 1
            continue
        for path in folder.rglob("*.*"):
            assert (tmp_path / "new" / path.relative_to(folder)).read_bytes() == path.read_bytes()
        shutil.rmtree(tmp_path / "new")
    assert refused > 0.9 * len(places)
