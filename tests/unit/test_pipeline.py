"""The cached graph: what is rebuilt and when, and what is left behind when something goes wrong."""

import multiprocessing
import resource
import shutil
import signal
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import lifecycle
from lifecycle import pipeline
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings

FIRST = """
    from lifecycle import toy_helper
    def build(settings, inputs, out):
        with open(settings.data_dir / "log.txt", "a") as log: log.write("first ")
        (out / "a.txt").write_text(f"{settings.seed} {toy_helper.WORD}")
"""
SECOND = """
    def build(settings, inputs, out):
        with open(settings.data_dir / "log.txt", "a") as log: log.write("second ")
        (out / "b.txt").write_text((inputs["first"] / "a.txt").read_text() + "!")
"""
APART = """
    def build(settings, inputs, out):
        with open(settings.data_dir / "log.txt", "a") as log: log.write("apart ")
        (out / "c.txt").write_text("c")
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A graph of three tiny stages in a package folder of their own."""
    code = tmp_path / "code"
    code.mkdir()
    monkeypatch.setattr(lifecycle, "__path__", [*lifecycle.__path__, str(code)])
    write = _Writer(code, monkeypatch)
    write("toy_helper", 'WORD = "one"\n')
    write("toy_first", FIRST)
    write("toy_second", SECOND)
    write("toy_apart", APART)
    stages = (
        pipeline.Stage("first", "lifecycle.toy_first", (), ("seed", "data_dir")),
        pipeline.Stage("second", "lifecycle.toy_second", ("first",), ("data_dir",)),
        pipeline.Stage("apart", "lifecycle.toy_apart", (), ("data_dir",)),
    )
    monkeypatch.setattr(pipeline, "STAGES", {stage.name: stage for stage in stages})
    settings = Settings(data_dir=tmp_path / "data")
    settings.data_dir.mkdir()
    return settings, write


class _Writer:
    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def __call__(self, name: str, code: str) -> None:
        import importlib
        import sys

        (self.folder / f"{name}.py").write_text(textwrap.dedent(code))
        # Python tells a changed file by its size and its second, and these edits keep both.
        shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        # A real edit is followed by a new process; here the modules are forgotten instead.
        for module in [m for m in sys.modules if m.startswith("lifecycle.toy_")]:
            self.monkeypatch.delitem(sys.modules, module)
            if hasattr(lifecycle, module.split(".")[1]):
                self.monkeypatch.delattr(lifecycle, module.split(".")[1])


def log(settings: Settings) -> list[str]:
    path = settings.data_dir / "log.txt"
    return path.read_text().split() if path.exists() else []


def left_behind(settings: Settings) -> list[Path]:
    return list((settings.data_dir / "artifacts").glob(".*.tmp"))


def test_builds_what_is_missing_and_nothing_twice(toy):
    settings, _ = toy
    made = pipeline.artifact("second", settings)
    assert made.file("b.txt").read_text() == "7 one!"
    pipeline.artifact("second", settings)
    pipeline.artifact("first", settings)
    assert log(settings) == ["first", "second"]


def test_an_edit_rebuilds_what_depends_on_it_and_nothing_else(toy):
    settings, write = toy
    for name in ("second", "apart"):
        pipeline.artifact(name, settings)
    write("toy_second", SECOND.replace('"!"', '"?"'))
    assert pipeline.artifact("second", settings).file("b.txt").read_text() == "7 one?"
    pipeline.artifact("apart", settings)
    assert log(settings) == ["first", "second", "apart", "second"]


def test_an_edit_of_an_imported_module_rebuilds_its_users(toy):
    settings, write = toy
    for name in ("second", "apart"):
        pipeline.artifact(name, settings)
    write("toy_helper", 'WORD = "two"\n')
    assert pipeline.artifact("second", settings).file("b.txt").read_text() == "7 two!"
    assert pipeline.artifact("apart", settings).key and log(settings).count("apart") == 1


def test_an_edit_of_comments_and_docstrings_rebuilds_nothing(toy):
    settings, write = toy
    pipeline.artifact("second", settings)
    write("toy_first", '    """New words."""\n    # and a comment' + FIRST)
    pipeline.artifact("second", settings)
    assert log(settings) == ["first", "second"]


def test_a_knob_rebuilds_only_the_stages_that_declare_it(toy):
    settings, _ = toy
    before = {name: pipeline.Pipeline(settings).key(name) for name in pipeline.STAGES}
    after = {name: pipeline.Pipeline(settings.with_(seed=8)).key(name) for name in pipeline.STAGES}
    assert [name for name in before if before[name] != after[name]] == ["first", "second"]
    other_knob = pipeline.Pipeline(settings.with_(trials=99))
    assert all(other_knob.key(name) == before[name] for name in before)


def test_reading_an_undeclared_knob_fails_by_name(toy):
    settings, write = toy
    write("toy_apart", "def build(settings, inputs, out):\n    settings.seed\n")
    with pytest.raises(AttributeError, match="'seed' without declaring it"):
        pipeline.artifact("apart", settings)


def test_a_failed_stage_leaves_earlier_artifacts_and_no_half_written_folder(toy):
    settings, write = toy
    first = pipeline.artifact("first", settings)
    write(
        "toy_second",
        "def build(settings, inputs, out):\n    (out / 'half').write_text('x')\n    raise ValueError('broke')\n",
    )
    with pytest.raises(ValueError, match="broke"):
        pipeline.artifact("second", settings)
    assert first.file("a.txt").read_text() == "7 one"
    assert not left_behind(settings)
    assert not list((settings.data_dir / "artifacts").glob("second-*"))


def _build_in_a_process(settings: Settings, name: str, limit: int | None, answer) -> None:
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        pipeline.artifact(name, settings)
        answer.put("built")
    except LifecycleError as error:
        answer.put(str(error))


def start(settings: Settings, name: str, limit: int | None = None):
    fork = multiprocessing.get_context("fork")
    answer = fork.Queue()
    process = fork.Process(target=_build_in_a_process, args=(settings, name, limit, answer))
    process.start()
    return process, answer


SLOW = FIRST.replace("(out /", "import time; time.sleep(1.0)\n        (out /")


def test_two_processes_at_once_build_one_artifact(toy):
    settings, write = toy
    write("toy_first", SLOW)
    running = [start(settings, "second") for _ in range(2)]
    assert [answer.get(timeout=60) for _, answer in running] == ["built", "built"]
    for process, _ in running:
        process.join()
    assert sorted(log(settings)) == ["first", "second"]


def test_a_killed_build_is_cleared_and_done_again(toy):
    settings, write = toy
    write("toy_first", SLOW)
    process, _ = start(settings, "first")
    deadline = time.monotonic() + 30
    while not left_behind(settings) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left_behind(settings), "the build never began"
    children = psutil.Process(process.pid).children()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and left_behind(settings)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "the build went on without the process that started it"
    assert pipeline.artifact("first", settings).file("a.txt").read_text() == "7 one"
    assert not left_behind(settings)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(toy):
    settings, write = toy
    pipeline.artifact("first", settings)
    write("toy_second", "def build(settings, inputs, out):\n    (out / 'big').write_bytes(b'0' * 1_000_000)\n")
    process, answer = start(settings, "second", limit=200_000)
    sentence = answer.get(timeout=60)
    process.join()
    assert sentence.startswith("The disk is full") and "free some space" in sentence
    assert not left_behind(settings)
    assert log(settings) == ["first"]


def test_a_changed_file_is_refused_by_name(toy):
    settings, _ = toy
    made = pipeline.artifact("first", settings)
    (made.path / "a.txt").write_text("tampered")
    with pytest.raises(LifecycleError, match=r"a\.txt is missing or was changed"):
        pipeline.artifact("first", settings).file("a.txt")


def test_a_build_that_the_system_ends_is_one_sentence(toy):
    settings, write = toy
    pipeline.artifact("first", settings)
    write("toy_second", "import os\ndef build(settings, inputs, out):\n    os.kill(os.getpid(), 9)\n")
    with pytest.raises(LifecycleError, match="stage second was ended by SIGKILL.*earlier results are intact"):
        pipeline.artifact("second", settings)
    assert not left_behind(settings)


def test_what_a_stage_prints_is_no_answer_and_what_it_raises_says_where(toy, capfd):
    settings, write = toy
    write("toy_first", "def build(settings, inputs, out):\n    print('half way')\n    raise KeyError('amount')\n")
    with pytest.raises(KeyError, match="amount") as caught:
        pipeline.artifact("first", settings)
    assert "toy_first.py" in caught.value.__notes__[0]
    out, err = capfd.readouterr()
    assert "half way" in err and not out


def test_a_stage_may_need_another_bank(toy, monkeypatch):
    settings, write = toy
    write("toy_apart", SECOND.replace("first", "second:first"))
    stages = {
        **pipeline.STAGES,
        "apart": pipeline.Stage("apart", "lifecycle.toy_apart", ("second:first",), ("data_dir",)),
    }
    monkeypatch.setattr(pipeline, "STAGES", stages)
    assert pipeline.artifact("apart", settings).file("b.txt").read_text() == "8 one!"
    foreign = pipeline.Source({"file": "x"}, lambda settings, inputs, out: None)
    assert pipeline.Pipeline(settings, foreign).needs("apart") == ()
    with pytest.raises(LifecycleError, match="no bank 'third'; the banks are second"):
        pipeline.artifact("third:first", settings)


def test_an_unknown_stage_is_named_with_the_known_ones():
    with pytest.raises(LifecycleError, match="no stage 'cooking'; the stages are world, collection"):
        pipeline.artifact("cooking")


def test_the_real_graph_is_sound():
    settings = Settings()
    seen: set[str] = set()
    for stage in pipeline.STAGES.values():
        needs = {need.partition(":")[2] or need for need in stage.needs}
        assert needs <= seen, f"{stage.name} needs a stage that comes later"
        assert {need.partition(":")[0] for need in stage.needs if ":" in need} <= set(pipeline.BANKS)
        seen.add(stage.name)
        for knob in stage.knobs:
            assert hasattr(settings, knob), f"{stage.name} declares an unknown knob {knob}"


def test_settings_are_read_from_the_environment_and_bad_ones_refused():
    settings = Settings.from_environment({"LIFECYCLE_SEED": "3", "LIFECYCLE_DEPLOY_AT": "2025-11-10", "HOME": "x"})
    assert (settings.seed, str(settings.deploy_at)) == (3, "2025-11-10")
    for name, value, sentence in (
        ("LIFECYCLE_SEEDS", "3", "Unknown setting LIFECYCLE_SEEDS"),
        ("LIFECYCLE_SEED", "three", "LIFECYCLE_SEED='three' is not a valid int"),
        ("LIFECYCLE_CUSTOMERS", "0", "customers is 0; it must be at least 1"),
        ("LIFECYCLE_TRAIN_FROM", "2026-01-01", "train_from .2026-01-01. is after train_until"),
    ):
        with pytest.raises(LifecycleError, match=sentence):
            Settings.from_environment({name: value})


def test_a_data_file_of_a_package_counts_as_code(toy):
    settings, write = toy
    package = write.folder / "toy_package"
    (package / "stores").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    store = package / "stores" / "laptop.yaml"
    store.write_text("online_store: sqlite\n")
    before = pipeline.code_hash("lifecycle.toy_package")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "laptop.pyc.1").write_text("half")
    assert pipeline.code_hash("lifecycle.toy_package") == before
    store.write_text("online_store: redis\n")
    assert pipeline.code_hash("lifecycle.toy_package") != before
