"""The entry point of the container: ``serve`` and ``train``, as SageMaker and similar platforms start them.

The platform mounts a folder, ``/opt/ml`` or what ``SAGEMAKER_BASE_DIR`` names::

    input/config/hyperparameters.json   knobs of a run, every value a string
    input/data/training/                one CSV or Parquet file of payments
    input/data/labels/                  one file of labels, if they are not a column of the payments
    input/data/map/                     one TOML file with the names of the columns, if they are not ours
    model/                              where `train` leaves the package, and `serve` finds it (or model.tar.gz)
    output/failure                      why a training failed, at most 1,024 characters
    output/data/                        the report and the scores of the test period
    state/                              the journal of the service
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings, base_dir

LONGEST_FAILURE = 1024
REPORTS = ("report.json", "report.html", "scores.parquet")
DAYS = ("train_from", "train_until", "test_from", "test_until")
NUMBERS = ("seed", "trials", "label_delay_days")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve or train, and return the exit code: 0 when all went well."""
    parser = argparse.ArgumentParser(prog="python -m lifecycle.container", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    parser.add_argument("what", choices=("serve", "train"))
    options = parser.parse_args(arguments)
    if options.what == "train":
        return train(base_dir())
    try:
        serve(base_dir(), options.host)
    except LifecycleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def serve(base: Path, host: str = "127.0.0.1") -> None:
    """Serve the package of ``model/`` until SIGTERM.

    Parameters
    ----------
    base
        The folder of the platform.
    host
        The address to listen on.

    Raises
    ------
    LifecycleError
        If the package is refused or the port cannot be used.
    """
    from lifecycle import deployment

    model = base / "model"
    if (model / "model.tar.gz").is_file():
        # A platform unpacks the archive itself; a plain `docker run` may mount it as it is.
        from lifecycle.deployment import artifact

        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            package = artifact.unpack(model / "model.tar.gz", Path(folder) / "model")
            deployment.serve(package.folder, host=host, state_dir=base / "state")
    else:
        deployment.serve(model, host=host, state_dir=base / "state")


def train(base: Path) -> int:
    """Train on the files of the channels, leave the package in ``model/``, and return the exit code.

    Whatever goes wrong is one sentence in ``output/failure``, and the exit code is 1.

    Parameters
    ----------
    base
        The folder of the platform.
    """
    try:
        _train(base)
        return 0
    except Exception as error:
        what = str(error) if isinstance(error, LifecycleError) else f"{type(error).__name__}: {error}"
        print(what, file=sys.stderr)
        failure = base / "output" / "failure"
        failure.parent.mkdir(parents=True, exist_ok=True)
        failure.write_text(what[:LONGEST_FAILURE])
        return 1


def _train(base: Path) -> None:
    from lifecycle.__main__ import export, own_pipeline

    knobs, days = read_hyperparameters(base / "input" / "config" / "hyperparameters.json")
    channels = base / "input" / "data"
    payments = channel_file(channels / "training")
    if payments is None:
        raise LifecycleError(f"There is no file of payments in {channels / 'training'}: give the channel 'training'.")
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        settings = Settings.from_environment().with_(data_dir=Path(folder), **knobs)
        labels, names = channel_file(channels / "labels"), channel_file(channels / "map")
        pipeline = own_pipeline(settings, payments, labels, names, days)
        out = Path(folder) / "out"
        export(pipeline, out)
        made = pipeline.artifact("deployment").path / "model"
        shutil.copytree(made, base / "model", dirs_exist_ok=True)
        for name in REPORTS:
            (base / "output" / "data").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / name, base / "output" / "data" / name)


def read_hyperparameters(path: Path) -> tuple[dict[str, Any], dict[str, date]]:
    """Return the knobs and the days of a run from the platform's file, in which every value is a string.

    Raises
    ------
    LifecycleError
        If a name is unknown or a value cannot be read.
    """
    given = files.read_json(path) if path.exists() else {}
    if not isinstance(given, dict):
        raise LifecycleError(f"{path.name} must be an object of names and strings.")
    known = dict.fromkeys(NUMBERS, int) | dict.fromkeys(DAYS, date.fromisoformat)
    values: dict[str, Any] = {}
    for name, text in given.items():
        name = name.replace("-", "_")
        if name not in known:
            raise LifecycleError(f"There is no hyperparameter {name!r}; there are {', '.join(known)}.")
        try:
            values[name] = known[name](str(text))
        except ValueError:
            raise LifecycleError(f"The hyperparameter {name} has the value {text!r}, which cannot be read.") from None
    return {n: v for n, v in values.items() if n in NUMBERS}, {n: v for n, v in values.items() if n in DAYS}


def channel_file(folder: Path) -> Path | None:
    """Return the one file of a channel, or None where there is no channel.

    Raises
    ------
    LifecycleError
        If a channel holds several files.
    """
    found = sorted(path for path in folder.glob("[!.]*") if path.is_file()) if folder.is_dir() else []
    if len(found) > 1:
        raise LifecycleError(f"The channel {folder.name} holds {len(found)} files: give one.")
    return found[0] if found else None


if __name__ == "__main__":
    sys.exit(main())
