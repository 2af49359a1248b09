"""The command line: ``python -m lifecycle COMMAND``. Every command has ``--help``."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.pipeline import Pipeline, Source
from lifecycle.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

CALENDAR = ("train_from", "train_until", "test_from", "test_until")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 only on success.

    Examples
    --------
    >>> main(["score", "--model", "no-such-folder", "--transactions", "a.csv", "--out", "b.csv"])
    1
    """
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except LifecycleError as error:
        print(f"lifecycle: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"lifecycle: {files.as_sentence(error, Path(error.filename or '.'))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "lifecycle: interrupted; finished stages are kept, and the same command goes on from them.", file=sys.stderr
        )
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lifecycle", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    simulate = commands.add_parser("simulate", help="write the sources of a simulated bank and the answer key")
    simulate.add_argument("--out", type=Path, required=True, help="a new folder")
    for knob in ("customers", "terminals", "days", "seed"):
        simulate.add_argument(f"--{knob}", type=int, help=f"default {getattr(Settings, knob)}")
    simulate.set_defaults(command=_simulate)

    run = commands.add_parser("run", help="take transactions through every stage up to a packaged, evaluated model")
    run.add_argument("--transactions", type=Path, help="CSV or Parquet file of your own; default: the simulated bank")
    run.add_argument("--dataset", metavar="NAME", help="a public data set instead of a file; see: datasets")
    run.add_argument("--file", type=Path, help="where that data set is; default: where its usual tool keeps it")
    run.add_argument("--labels", type=Path, help="CSV or Parquet file: transaction_id, is_fraud, known_at")
    run.add_argument("--map", type=Path, help="TOML file: names of columns, units, zone, words of the labels")
    for bound in CALENDAR:
        run.add_argument(f"--{bound.replace('_', '-')}", type=_day, metavar="DATE", help="periods are [from, until)")
    run.add_argument("--out", type=Path, required=True, help="folder for features, model, report and scores")
    run.set_defaults(command=_run)

    datasets = commands.add_parser("datasets", help="list the public data sets and what each can support")
    datasets.set_defaults(command=_datasets)

    serve = commands.add_parser("serve", help="answer /ping and /invocations over HTTP")
    serve.add_argument("--model", type=Path, required=True, help="a folder written by run, or of releases")
    serve.add_argument("--port", type=int, help="default: SAGEMAKER_BIND_TO_PORT, or 8080")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    serve.add_argument("--capture", type=Path, help="folder for data capture; default: no capture")
    serve.add_argument("--state", type=Path, help="folder of what must survive a crash; default: MODEL/state")
    serve.add_argument("--token-file", type=Path, help="file with the token callers must bring; default: none")
    serve.add_argument("--workers", type=int, default=1, help="processes that answer; default 1")
    serve.add_argument(
        "--fsync", action="store_true", help="answer when a payment is on the disk: survives a power cut"
    )
    serve.set_defaults(command=_serve)

    score = commands.add_parser("score", help="score a file of transactions")
    score.add_argument("--model", type=Path, required=True, help="a folder written by run")
    score.add_argument("--transactions", type=Path, required=True, help="CSV or Parquet file")
    score.add_argument("--map", type=Path, help="TOML file: the mapping that the model was trained with")
    score.add_argument("--out", type=Path, required=True, help="CSV or Parquet file to write")
    score.add_argument("--memory", type=int, metavar="MB", help="how much of the file is held at a time; default 1000")
    score.set_defaults(command=_score)

    monitor = commands.add_parser("monitor", help="compare captured traffic with a baseline")
    monitor.add_argument(
        "--baseline", type=Path, required=True, help="folder with statistics.json and constraints.json"
    )
    monitor.add_argument("--captured", type=Path, required=True, help="folder of data-capture JSON lines")
    monitor.add_argument("--out", type=Path, required=True, help="folder for statistics and violations")
    monitor.add_argument(
        "--ground-truth", type=Path, help="folder of labels (yyyy/mm/dd/hh/*.jsonl): judge the model's quality too"
    )
    monitor.set_defaults(command=_monitor)
    return parser


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write it as 2025-08-01") from None


def _simulate(options: argparse.Namespace) -> None:
    from lifecycle import world

    knobs = {
        k: getattr(options, k) for k in ("customers", "terminals", "days", "seed") if getattr(options, k) is not None
    }
    world.simulate_to(Settings.from_environment().with_(**knobs), options.out)
    print(f"The sources are in {options.out / 'sources'}, the answer key in {options.out / 'answer_key'}.")


def _run(options: argparse.Namespace) -> None:
    if options.dataset and (options.transactions or options.labels or options.map):
        raise LifecycleError("--dataset brings its own file and mapping: leave out --transactions, --labels and --map.")
    if options.file and not options.dataset:
        raise LifecycleError(
            "--file says where a --dataset is; name the data set, or give your file as --transactions."
        )
    if not options.dataset and options.transactions is None and (options.labels or options.map):
        raise LifecycleError("--labels and --map describe a file of your own: give it with --transactions.")
    if options.out.exists() and not options.out.is_dir():
        raise LifecycleError(f"{options.out} is a file; --out needs a folder.")
    settings = Settings.from_environment()
    given = {name: getattr(options, name) for name in CALENDAR if getattr(options, name) is not None}
    if options.dataset:
        from lifecycle import datasets

        with tempfile.TemporaryDirectory(prefix="lifecycle-dataset-") as folder:
            path, names = datasets.prepare_run(options.dataset, options.file, Path(folder))
            pipeline = own_pipeline(settings, path, None, names, given)
            export(pipeline, options.out)
    elif options.transactions is None:
        pipeline = Pipeline(settings.with_(**given))
    else:
        pipeline = own_pipeline(settings, options.transactions, options.labels, options.map, given)
    if not options.dataset:
        export(pipeline, options.out)
    for warning in (files.read_json(options.out / "report.json").get("own") or {}).get("warnings", []):
        print(f"Warning: {warning}")
    print(f"Done. Read {options.out / 'report.html'}.")
    print(f"Start the model with: python -m lifecycle serve --model {options.out}")


def own_pipeline(
    settings: Settings,
    transactions: Path,
    labels: Path | None = None,
    mapping: Path | Mapping[str, Any] | None = None,
    given: dict[str, date] | None = None,
) -> Pipeline:
    """Return the graph over a file of one's own, with a calendar that fits the file.

    Parameters
    ----------
    settings
        The knobs; their calendar is replaced.
    transactions, labels, mapping
        The files; labels may be a column of the transactions instead, and the mapping the content of its file.
    given
        Those of ``train_from``, ``train_until``, ``test_from``, ``test_until`` that the user chose.

    Raises
    ------
    LifecycleError
        If a file cannot be read, breaks the contract, or is too short for the periods.
    """
    from lifecycle import collection

    names = collection.read_mapping(mapping) if isinstance(mapping, Path) else dict(mapping or {})
    inputs = {"transactions": transactions, "labels": labels}
    for path in inputs.values():
        if path is not None and not path.is_file():
            raise LifecycleError(
                f"{path} is a folder; give one CSV or Parquet file."
                if path.is_dir()
                else f"File not found: {path}; check the path."
            )
    # The name is in the report, so that the same content under another name is another run.
    identity = {name: [path.name, files.sha256(path)] for name, path in inputs.items() if path is not None}
    identity["map"] = hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()
    # A delay of the mapping is one of the run: the calendar keeps it between training and test.
    settings = settings.with_(label_delay_days=names.get("label_delay_days", settings.label_delay_days))
    source = Source(identity, collection.ingest(transactions, labels, names, settings.label_delay_days))
    collected = Pipeline(settings, source).artifact("collection")
    days = _payments_by_day(collected.file("transactions.parquet"))
    first, last = days.index[0].date(), days.index[-1].date()
    calendar = calendar_for(first, last, settings.label_delay_days, given or {})
    _check_periods(days, calendar)
    after = max(_last_known(collected.file("labels.parquet")), last) + timedelta(days=1)
    return Pipeline(settings.with_(**calendar, deploy_at=max(after, calendar["test_until"])), source)


def _payments_by_day(path: Path) -> pd.Series:
    """Return the number of payments of each day that has any, by midnight, in order."""
    from lifecycle.preprocessing.tables import read_batches

    days = (
        table["event_time"].to_pandas().dt.floor("D").value_counts() for table in read_batches(path, ["event_time"])
    )
    total = functools.reduce(lambda one, other: one.add(other, fill_value=0), days)
    return total.sort_index().astype("int64")


def _last_known(path: Path) -> date:
    """Return the day on which the last label became known."""
    import pyarrow.compute as pc

    from lifecycle.preprocessing.tables import read_batches

    return max(pc.max(table["known_at"]).as_py() for table in read_batches(path, ["known_at"])).date()


def _check_periods(days: pd.Series, calendar: Mapping[str, date]) -> None:
    """Raise a LifecycleError if there are no payments to train on, or none to test on."""
    dates = days.index.date
    for name in ("train", "test"):
        since, until = calendar[f"{name}_from"], calendar[f"{name}_until"]
        if not days[(dates >= since) & (dates < until)].sum():
            raise LifecycleError(
                f"The {name} period {since} to {until} has no payments: the file covers {dates[0]} to {dates[-1]}; "
                f"give other dates (--{name}-from, --{name}-until)."
            )


def calendar_for(first: date, last: date, label_delay_days: int, given: dict[str, date]) -> dict[str, date]:
    """Choose training and test periods for data from day `first` to day `last`, both included.

    What the user did not give: the test is the last fifth, the training ends `label_delay_days` before
    it so that its labels are known, and the first fifth (30 days at most) only fills the feature windows.

    Examples
    --------
    >>> periods = calendar_for(date(2025, 1, 1), date(2025, 4, 10), 7, {})
    >>> [str(day) for day in periods.values()]
    ['2025-01-21', '2025-03-15', '2025-03-22', '2025-04-11']
    """
    end = given.get("test_until", last + timedelta(days=1))
    span = (end - first).days
    test_from = given.get("test_from", end - timedelta(days=max(1, span // 5)))
    periods = {
        "train_from": given.get("train_from", first + timedelta(days=min(30, span // 5))),
        "train_until": given.get("train_until", test_from - timedelta(days=label_delay_days)),
        "test_from": test_from,
        "test_until": end,
    }
    days = list(periods.values())
    if days != sorted(days) or periods["train_from"] == periods["train_until"] or test_from == end:
        text = ", ".join(f"{name} {day}" for name, day in periods.items())
        raise LifecycleError(
            f"The data of {first} to {last} cannot be split into training and test periods ({text}): "
            f"labels take {label_delay_days} days to become known; use a longer file or give the dates."
        )
    return periods


def export(pipeline: Pipeline, out: Path) -> None:
    """Copy what a user takes away from a run into `out`; each file appears whole or not at all."""
    deployed, evaluated, features = (pipeline.artifact(name) for name in ("deployment", "evaluation", "features"))
    model = deployed.path / "model"
    made = {path.relative_to(model).as_posix(): path for path in sorted(model.rglob("*")) if path.is_file()}
    made |= {name: evaluated.file(name) for name in ("report.json", "report.html", "scores.parquet")}
    made |= {f"features/{name}.parquet": features.file(f"{name}.parquet") for name in ("training_set", "test_set")}
    absent = files.read_json(features.file("schema.json")).get("absent", [])
    for name, path in made.items():
        with files.replacing(out / name) as temporary:
            if absent and name.startswith("features/"):
                _copy_without(absent, path, temporary)
            else:
                shutil.copyfile(path, temporary)


def _copy_without(columns: Sequence[str], source: Path, target: Path) -> None:
    """Copy a Parquet file without the id columns that the user's file never had."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with files.open_parquet(source) as file:
        kept = [name for name in file.schema_arrow.names if name not in columns]
        schema = pa.schema([file.schema_arrow.field(name) for name in kept])
        with pq.ParquetWriter(target, schema) as writer:
            for batch in file.iter_batches(columns=kept):
                writer.write_batch(batch)


def _datasets(options: argparse.Namespace) -> None:
    from lifecycle import datasets

    print(datasets.as_text())


def _serve(options: argparse.Namespace) -> None:
    from lifecycle import deployment

    deployment.serve(
        options.model,
        options.port,
        options.host,
        options.capture,
        options.state,
        options.token_file,
        options.workers,
        options.fsync,
    )


def _score(options: argparse.Namespace) -> None:
    from lifecycle import collection, deployment

    mapping = collection.read_mapping(options.map) if options.map else None
    rows = deployment.score_file(
        options.model, options.transactions, options.out, mapping, options.memory,
        lambda sentence: print(sentence, file=sys.stderr),
    )  # fmt: skip
    print(f"{rows:,} transactions scored into {options.out}.")


def _monitor(options: argparse.Namespace) -> None:
    from lifecycle import monitoring

    violations = monitoring.monitor(options.baseline, options.captured, options.out, options.ground_truth)
    print(f"{violations} violations; see {options.out / 'constraint_violations.json'}.")


if __name__ == "__main__":
    sys.exit(main())
