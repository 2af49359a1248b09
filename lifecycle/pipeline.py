"""The stages as one graph of cached artifacts.

`artifact("features")` returns the folder that the features stage made, and builds it, with all
it needs, if it is missing. An artifact is found by its key. The key is a hash over the knobs the
stage may read, the code it uses, the versions of the libraries that code imports, and the keys of
the stages before it. So changed code never yields a stale result, and an edit rebuilds the stages
that depend on it and no others.

A stage is a module with a function ``build(settings, inputs, out)``: `settings` shows the declared
knobs and no others, `inputs` maps the name of a predecessor to its folder, and `out` is an empty
folder to fill. The folder gets its final name only when the stage has succeeded.

Each stage is built in a process of its own, so that what a build leaves in memory ends with it: a notebook
that builds all the stages before its own stays as small as one that finds them built.

A need such as ``"second:features"`` is the stage `features` of another simulated bank of `BANKS`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

import lifecycle
from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings
from lifecycle.source import code_hash

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Stage:
    """A step of the graph: where its code is, what it needs, which knobs it may read."""

    name: str
    module: str
    needs: tuple[str, ...] = ()
    knobs: tuple[str, ...] = ()


_WORLD = ("seed", "customers", "terminals", "days", "start", "deploy_at", "fraud_mix")
_CALENDAR = ("train_from", "train_until", "test_from", "test_until", "deploy_at", "label_delay_days")
_FOLDS = ("folds", "fold_days", "label_delay_days")
_MONEY = ("chargeback_fee", "review_cost", "friction_cost", "cards_per_day")

_FIT = ("seed", "most_rows", "data_dir")  # where the experiment store is does not change a result: see Pipeline.key

STAGES = {
    stage.name: stage
    for stage in (
        Stage("world", "lifecycle.world", (), _WORLD),
        Stage("collection", "lifecycle.collection", ("world",), ("label_delay_days",)),
        Stage("exploration", "lifecycle.exploration", ("collection",), _CALENDAR),
        Stage("preprocessing", "lifecycle.preprocessing", ("collection",), _CALENDAR),
        Stage("features", "lifecycle.features", ("preprocessing",), _CALENDAR),
        Stage("training", "lifecycle.training", ("preprocessing", "features"), _FIT + _CALENDAR + _FOLDS + _MONEY),
        Stage(
            "consortium",
            "lifecycle.consortium",
            ("preprocessing", "features", "consortium:preprocessing", "consortium:features"),
            _FIT + _CALENDAR + _MONEY,
        ),
        Stage(
            "tuning",
            "lifecycle.tuning",
            ("preprocessing", "features", "training", "second:features"),
            _FIT + ("trials",) + _CALENDAR + _FOLDS + _MONEY,
        ),
        Stage(
            "evaluation",
            "lifecycle.evaluation",
            ("world", "preprocessing", "features", "training", "tuning", "second:preprocessing", "second:features"),
            _FIT + _CALENDAR + _FOLDS + _MONEY,
        ),
        Stage("deployment", "lifecycle.deployment", ("preprocessing", "features", "evaluation"), _CALENDAR + _MONEY),
        Stage(
            "monitoring",
            "lifecycle.monitoring",
            ("collection", "preprocessing", "features", "evaluation", "deployment"),
            ("seed", "capture_share", "start", "days", "decision_timeout") + _CALENDAR + _FOLDS + _MONEY,
        ),
    )
}

BANKS: Mapping[str, Callable[[Settings], dict[str, Any]]] = {
    # Another bank of the same kind, drawn with other random numbers: nothing was chosen by looking at it.
    "second": lambda own: {
        "seed": own.seed + 1,
        "customers": max(own.customers // 2, 1),
        "terminals": max(own.terminals // 2, 1),
    },
    # A bank with other customers and another mix of frauds, whose model is offered to the run's bank.
    "consortium": lambda own: {
        "seed": own.seed + 1000,
        "customers": max(own.customers * 4 // 5, 1),
        "terminals": max(own.terminals * 4 // 5, 1),
        "fraud_mix": "consortium",
    },
}
"""Other simulated banks that a stage may need beside its own: what differs from the settings of the run."""


class Knobs:
    """The part of the settings that one stage declared. Reading another knob is an error.

    Examples
    --------
    >>> Knobs(Settings(), ("seed",)).seed
    7
    """

    def __init__(self, settings: Settings, names: tuple[str, ...]) -> None:
        self._values = {name: getattr(settings, name) for name in dict.fromkeys(names)}

    def values(self) -> dict[str, Any]:
        """Return all declared knobs by name, so that a run can be recorded with everything it may have read."""
        return dict(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"the stage reads the knob {name!r} without declaring it in pipeline.STAGES") from None


@dataclass(frozen=True)
class Artifact:
    """What a stage made: a folder of files with their hashes."""

    stage: str
    key: str
    path: Path
    manifest: dict[str, Any] = field(repr=False)

    def file(self, name: str) -> Path:
        """Return the path of one file, after checking that it is what the stage wrote.

        Raises
        ------
        LifecycleError
            If the file is missing or its SHA-256 differs from the manifest.
        """
        path = self.path / name
        recorded = self.manifest["files"].get(name)
        if recorded is None:
            raise LifecycleError(
                f"The {self.stage} artifact has no file {name}; it has {', '.join(self.manifest['files'])}."
            )
        if not path.exists() or _hash_once(path, path.stat().st_mtime_ns) != recorded["sha256"]:
            raise LifecycleError(
                f"{path} is missing or was changed after it was built; delete {self.path} and run again."
            )
        return path

    def frame(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Read the table ``<name>.parquet`` of this artifact."""
        import pandas as pd  # a process that builds a stage imports this module, and should start at once

        return pd.read_parquet(self.file(f"{name}.parquet"), columns=columns)

    def json(self, name: str) -> Any:
        """Read the file ``<name>.json`` of this artifact."""
        return files.read_json(self.file(f"{name}.json"))


@cache
def _hash_once(path: Path, _modified: int) -> str:
    return files.sha256(path)


@dataclass(frozen=True)
class Source:
    """Transactions from somewhere other than the simulated bank, in place of the collection stage.

    `identity` names the content (for the key); `build` writes what collection would write.
    """

    identity: Mapping[str, Any]
    build: Callable[[Any, Mapping[str, Path], Path], None]


class Pipeline:
    """The graph for one set of settings.

    Parameters
    ----------
    settings
        The knobs; by default those of the environment.
    source
        What replaces the simulated bank, if anything.
    """

    def __init__(self, settings: Settings | None = None, source: Source | None = None) -> None:
        self.settings = settings or Settings.from_environment()
        self.source = source
        self._root = Path(self.settings.data_dir) / "artifacts"

    def needs(self, name: str) -> tuple[str, ...]:
        """Return the names of the stages that `name` reads."""
        if self.source is None:
            return _stage(name).needs
        if name == "collection":
            return ()
        return tuple(need for need in _stage(name).needs if need != "world" and ":" not in need)

    def key(self, name: str) -> str:
        """Return the key of a stage's artifact: 16 hexadecimal digits."""
        return self._key(name, {})

    def _key(self, name: str, known: dict[tuple[Settings, str], str]) -> str:
        """Return a key; `known` holds those already found, since many stages need the same ones."""
        if (self.settings, name) not in known:
            bank, _, own = name.rpartition(":")
            known[self.settings, name] = self._at(bank)._key(own, known) if bank else self._hash(name, known)
        return known[self.settings, name]

    def _hash(self, name: str, known: dict[tuple[Settings, str], str]) -> str:
        stage = _stage(name)
        parts: dict[str, Any] = {
            "stage": name,
            "code": code_hash(stage.module),
            "knobs": {knob: str(getattr(self.settings, knob)) for knob in sorted(set(stage.knobs) - {"data_dir"})},
            "needs": {need: self._key(need, known) for need in self.needs(name)},
        }
        if self.source is not None and name == "collection":
            parts["source"] = dict(self.source.identity)
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def artifact(self, name: str) -> Artifact:
        """Return the artifact of a stage, building it and what it needs if necessary.

        `name` may name another bank too, such as ``"second:features"``.
        """
        bank, _, own = name.rpartition(":")
        if bank:
            return self._at(bank).artifact(own)
        key = self.key(name)
        path = self._root / f"{name}-{key}"
        if not (path / "manifest.json").exists():
            inputs = {need: self.artifact(need).path for need in self.needs(name)}
            self._build(name, key, path, inputs)
        return Artifact(name, key, path, files.read_json(path / "manifest.json"))

    def _at(self, bank: str) -> Pipeline:
        """Return the graph of another simulated bank."""
        if bank not in BANKS:
            raise LifecycleError(f"There is no bank {bank!r}; the banks are {', '.join(BANKS)}.")
        return Pipeline(self.settings.with_(**BANKS[bank](self.settings)))

    def _build(self, name: str, key: str, path: Path, inputs: Mapping[str, Path]) -> None:
        """Build one artifact under a lock, so that a second process waits and then finds it."""
        stage = _stage(name)
        temporary = self._root / f".{name}-{key}.{os.getpid()}.tmp"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with FileLock(self._root / f".{name}-{key}.lock"):
                if (path / "manifest.json").exists():
                    return
                _clear_abandoned(self._root, f".{name}-{key}.")
                temporary.mkdir()
                _say(f"building {name} ...")
                began = time.perf_counter()
                knobs = Knobs(self.settings, stage.knobs)
                if self.source is not None and name == "collection":
                    self.source.build(knobs, inputs, temporary)
                else:
                    _build_apart(stage, knobs, inputs, temporary)
                seconds = time.perf_counter() - began
                _write_manifest(self, stage, key, temporary, seconds)
                os.replace(temporary, path)
                _say(f"built {name} in {seconds:.1f} s")
        except LifecycleError:
            raise
        except OSError as error:
            raise files.as_sentence(error, path) from error
        except Exception as error:
            # DuckDB and SQLite report a full disk as errors of their own.
            if files.is_full(error):
                raise files.full_disk(path) from error
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def artifact(name: str, settings: Settings | None = None) -> Artifact:
    """Return a stage's artifact on the simulated bank; build what is missing.

    Parameters
    ----------
    name
        A stage of `STAGES`, such as ``"features"``.
    settings
        The knobs; by default those of the environment.
    """
    return Pipeline(settings).artifact(name)


def _stage(name: str) -> Stage:
    if name not in STAGES:
        raise LifecycleError(f"There is no stage {name!r}; the stages are {', '.join(STAGES)}.")
    return STAGES[name]


def _write_manifest(pipeline: Pipeline, stage: Stage, key: str, folder: Path, seconds: float) -> None:
    made = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {
        "stage": stage.name,
        "key": key,
        "seconds": round(seconds, 3),
        "knobs": {knob: str(getattr(pipeline.settings, knob)) for knob in sorted(set(stage.knobs) - {"data_dir"})},
        "needs": {need: pipeline.key(need) for need in pipeline.needs(stage.name)},
        "files": {
            p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": files.sha256(p)} for p in made
        },
    }
    files.write_json(manifest, folder / "manifest.json")


def _clear_abandoned(root: Path, prefix: str) -> None:
    """Remove what an interrupted process left. The caller holds the lock, so nobody is writing it."""
    for left in root.glob(f"{prefix}*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _say(text: str) -> None:
    print(f"[lifecycle] {text}", file=sys.stderr, flush=True)


_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from lifecycle import pipeline; pipeline.serve_build()"
)


def _build_apart(stage: Stage, knobs: Knobs, inputs: Mapping[str, Path], out: Path) -> None:
    """Run a stage's `build` in a process of its own; raise here what it raises there.

    The job goes to the process through its standard input, which then stays open: when this process dies, the
    other sees the end of it and stops too. What the stage raised comes back through its standard output.
    """
    job = pickle.dumps((list(lifecycle.__path__), stage.module, knobs, dict(inputs), out))
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(job)
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it ended before it read the job; its exit code says more
            answer = process.stdout.read()
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if answer:
        error = pickle.loads(answer)
        if error is not None:
            raise error
    elif code < 0:
        raise LifecycleError(
            f"The stage {stage.name} was ended by {signal.Signals(-code).name}, as a system does that runs out of "
            "memory: close other programs and run again; earlier results are intact."
        )
    else:
        raise LifecycleError(f"The stage {stage.name} ended with exit code {code}: see what it printed above.")


def serve_build() -> None:
    """Build one stage as the process that `Pipeline` started for it: the job is read from standard input."""
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # what a stage prints is progress, and must not end up in the answer
        paths, module, knobs, inputs, out = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        lifecycle.__path__[:] = paths
        try:
            importlib.import_module(module).build(knobs, inputs, out)
        except BaseException as error:
            answer.write(_portable(error))
        else:
            answer.write(pickle.dumps(None))


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _portable(error: BaseException) -> bytes:
    """Return an exception as bytes; anything but a sentence for the user carries its traceback as a note."""
    if not isinstance(error, LifecycleError):
        error.add_note("In the process of the stage:\n" + "".join(traceback.format_exception(error)))
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
        return content
    except Exception:
        return pickle.dumps(RuntimeError("".join(traceback.format_exception(error))))
