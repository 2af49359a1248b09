"""Read what a service captured: JSON lines in the published format, as a table of requests and answers."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lifecycle.errors import LifecycleError

CSV_COLUMNS = ("transaction_id", "event_time", "customer_id", "terminal_id", "amount")
"""The columns of a CSV record without a header: the contract columns, in order."""


ANSWER_COLUMNS = ("transaction_id", "score", "decision")
"""The columns of a CSV answer without a header; with a single column, it is the score."""


def read_capture(folder: Path | str, csv_columns: Sequence[str] = CSV_COLUMNS) -> pd.DataFrame:
    """Read all captured calls under a folder (or in one file) into a frame.

    Parameters
    ----------
    folder
        A file, or a folder searched for ``*.jsonl`` and ``*.jsonl.gz`` at any depth, in order of name.
    csv_columns
        Names for the fields of a CSV request without a header line.

    Returns
    -------
    DataFrame
        One row a record: the fields of the request, those of the answer (matched by ``transaction_id``
        if the answer has it, else by position), and ``inference_time`` (datetime64[us, UTC]).

    Raises
    ------
    LifecycleError
        If there is no capture, or a line is broken; the sentence names the file and the line.
    """
    files = _capture_files(Path(folder))
    parts: dict[str, list[Any]] = {"input": [], "output": [], "time": []}
    for file in files:
        for number, line in _lines(file):
            where = f"{file}, line {number}"
            requests, answers, moment = _read_line(line, where, csv_columns)
            parts["input"].extend(requests)
            parts["output"].extend(answers)
            parts["time"].extend([moment] * len(requests))
    if not parts["input"]:
        raise LifecycleError(f"{folder}: the capture holds no records; give a folder with captured calls.")
    frame = pd.DataFrame.from_records(parts["input"])
    answers = pd.DataFrame.from_records(parts["output"], index=frame.index)
    for name in answers.columns.difference(["transaction_id"], sort=False):
        frame[name] = answers[name]
    frame["inference_time"] = pd.to_datetime(pd.Series(parts["time"]), utc=True, format="ISO8601").astype(
        "datetime64[us, UTC]"
    )
    return frame


def _capture_files(folder: Path) -> list[Path]:
    if not folder.exists():
        raise LifecycleError(f"File not found: {folder}; give the folder the service captured into.")
    files = [folder] if folder.is_file() else sorted([*folder.rglob("*.jsonl"), *folder.rglob("*.jsonl.gz")])
    if not files:
        raise LifecycleError(f"{folder}: there is no .jsonl file in it; give the folder the service captured into.")
    return files


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8") as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, line
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise LifecycleError(f"{file} cannot be read as text ({error}); remove the file or capture again.") from None


def _read_line(line: str, where: str, csv_columns: Sequence[str]) -> tuple[list[dict], list[dict], str]:
    """Return the request's records, one answer for each, and the time of inference."""
    try:
        event = json.loads(line)
        capture = event["captureData"]
        moment = event["eventMetadata"]["inferenceTime"]
        requests = _records(capture["endpointInput"], csv_columns)
        answers = _records(capture["endpointOutput"], ANSWER_COLUMNS) if "endpointOutput" in capture else []
    except json.JSONDecodeError as error:
        raise LifecycleError(f"{where}: this is not valid JSON ({error.msg}); remove the line.") from None
    except (KeyError, TypeError, AttributeError) as error:
        what = f"the part {error.args[0]!r} is missing" if isinstance(error, KeyError) else f"unexpected form ({error})"
        raise LifecycleError(f"{where}: this is not a captured call, {what}; remove the line.") from None
    except (ValueError, binascii.Error) as error:
        raise LifecycleError(f"{where}: the captured data cannot be decoded ({error}); remove the line.") from None
    return requests, _align(requests, answers, where), moment


def _align(requests: list[dict], answers: list[dict], where: str) -> list[dict]:
    """Return one answer a request: by transaction_id if the answers carry it, else by position."""
    if answers and all("transaction_id" in answer for answer in answers):
        by_id = {str(answer["transaction_id"]): answer for answer in answers}
        return [by_id.get(str(request.get("transaction_id")), {}) for request in requests]
    if answers and len(answers) != len(requests):
        raise LifecycleError(
            f"{where}: {len(requests)} records were sent and {len(answers)} answered; remove the line."
        )
    return answers or [{} for _ in requests]


def _records(part: dict[str, Any], csv_columns: Sequence[str]) -> list[dict[str, Any]]:
    """Decode one side of a captured call into records."""
    data, encoding = part["data"], part["encoding"].upper()
    kind = str(part.get("observedContentType", "")).split(";")[0].strip().lower()
    if encoding == "BASE64":
        data = base64.b64decode(data, validate=True).decode("utf-8")
    elif encoding not in ("JSON", "CSV"):
        raise ValueError(f"unknown encoding {encoding!r}")
    if encoding == "CSV" or kind == "text/csv":
        return _csv_records(data, csv_columns)
    if not isinstance(data, str):
        return _as_records(data)
    if kind.endswith("jsonlines") or kind.endswith("jsonl") or kind.endswith("ndjson"):
        return [record for line in data.splitlines() if line.strip() for record in _as_records(json.loads(line))]
    try:
        return _as_records(json.loads(data))
    except json.JSONDecodeError:  # more than one line of JSON under a plain JSON content type
        return [record for line in data.splitlines() if line.strip() for record in _as_records(json.loads(line))]


def _as_records(content: Any) -> list[dict[str, Any]]:
    """Accept one record, a list of records, or an object with one list of records under a name of its own."""
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(content) == 1 and lists:
            return _as_records(lists[0])
        return [content]
    if isinstance(content, list) and all(isinstance(record, dict) for record in content):
        return content
    if isinstance(content, list) and all(isinstance(value, int | float) for value in content):
        return [{"score": value} for value in content]
    raise ValueError("the data is neither a record nor a list of records")


def _csv_records(data: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    first = data.split("\n", 1)[0].strip().split(",")
    has_header = "transaction_id" in first or first == ["score"]
    known = ("score",) if columns == ANSWER_COLUMNS and len(first) == 1 else columns
    names = None if has_header else [*known, *(f"column_{i}" for i in range(len(known), len(first)))][: len(first)]
    frame = pd.read_csv(io.StringIO(data), header=0 if has_header else None, names=names)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def preprocess(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep what a monitor should look at; the counterpart of Model Monitor's record preprocessor script.

    Identifiers and times always differ from the baseline, so they would only raise false alarms.
    They are dropped; the hour of the day stays.

    Parameters
    ----------
    frame
        Captured records (`read_capture`), or rows of the baseline with the same fields.

    Examples
    --------
    >>> preprocess(pd.DataFrame({"transaction_id": [1], "event_time": ["2025-11-03T22:10:00Z"], "amount": [9.5]}))
       amount  hour
    0     9.5    22
    """
    dropped = ["transaction_id", "event_time", "customer_id", "terminal_id", "inference_time", "merchant_text"]
    kept = frame.drop(columns=[name for name in dropped if name in frame.columns])
    if "event_time" in frame.columns:
        times = pd.to_datetime(frame["event_time"], utc=True, format="ISO8601", errors="coerce")
        kept["hour"] = times.dt.hour.astype("Int64")
    return kept
