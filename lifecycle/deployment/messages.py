"""What travels over the wire: request bodies into checked records, scores into response bodies.

Nothing here knows of HTTP servers or of models, so that every rule about a request can be tested in a
microsecond. A request that cannot be read raises `BadRequest` with one sentence that names the record
and the field. The sentence never repeats the value: error messages end up in logs, payments must not.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lifecycle.contracts import NO_ID
from lifecycle.errors import LifecycleError

JSON, JSON_LINES, CSV = "application/json", "application/jsonlines", "text/csv"
CONTENT_TYPES = (JSON, JSON_LINES, CSV)

CONTRACT = ("transaction_id", "event_time", "customer_id", "terminal_id", "amount")
IDS = ("transaction_id", "customer_id", "terminal_id")
ATTRIBUTES = ("channel", "merchant_category", "merchant_text")
LARGEST_AMOUNT = 1e12
YEARS = range(1970, 2200)
_NOT_TEXT = re.compile("[\ud800-\udfff\0]")


class BadRequest(LifecycleError):
    """A request that is wrong, with the HTTP status that says so."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class RecordFormat:
    """What a record looks like for one model: how ids are written, which attributes are used.

    Parameters
    ----------
    ids
        For each id column ``"integer"``, ``"text"``, or ``"absent"``: the model was trained without such an entity.
    attributes
        For each optional attribute ``"text"`` or ``"number"``. Other fields are let through and not used.
    """

    ids: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(IDS, "integer"))
    attributes: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(ATTRIBUTES, "text"))


def as_records(payments: Any, attributes: Sequence[str] = ATTRIBUTES) -> list[dict[str, Any]]:
    """Return the rows of a table of payments as records that a client could send as JSON.

    Parameters
    ----------
    payments
        A data frame that keeps `contracts.TRANSACTIONS`.
    attributes
        Optional attributes to send along, where the table has them.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"transaction_id": 1, "customer_id": 2, "terminal_id": 3, "amount": 4.5}
    >>> as_records(pd.DataFrame([{**row, "event_time": pd.Timestamp("2025-11-03 10:00", tz="UTC")}]))[0]["event_time"]
    '2025-11-03T10:00:00+00:00'
    """
    columns = {name: payments[name].tolist() for name in CONTRACT}
    columns["event_time"] = [moment.isoformat() for moment in columns["event_time"]]
    for name in attributes:
        if name in payments:
            known = payments[name].notna()
            columns[name] = payments[name].astype(object).where(known, None).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def media_type(header: str | None) -> str:
    """Return the media type of a Content-Type or Accept header, in lower case and without parameters.

    Examples
    --------
    >>> media_type("Text/CSV; charset=utf-8")
    'text/csv'
    """
    return (header or "").split(";")[0].strip().lower()


def response_type(accept: str | None, content_type: str) -> str:
    """Choose the type of the answer: the first one in Accept that we write, or that of the request.

    Raises
    ------
    BadRequest
        With status 406 if Accept names only types that we do not write.

    Examples
    --------
    >>> response_type("*/*", "text/csv"), response_type("application/json", "text/csv")
    ('text/csv', 'application/json')
    """
    wanted = [media_type(part) for part in (accept or "").split(",") if part.strip()]
    if not wanted:
        return content_type
    for one in wanted:
        if one in CONTENT_TYPES:
            return one
        if one in ("*/*", content_type.split("/")[0] + "/*"):
            return content_type
    raise BadRequest(f"The Accept header names no type that is written here: use {', '.join(CONTENT_TYPES)}.", 406)


def parse(
    body: bytes, content_type: str, record_format: RecordFormat | None = None
) -> list[dict[str, Any] | BadRequest]:
    """Read a request body into records with checked fields.

    Parameters
    ----------
    body
        The bytes of the request, UTF-8.
    content_type
        One of `CONTENT_TYPES`.
    record_format
        How ids and attributes are written.

    Returns
    -------
    list of dict or BadRequest
        In the order of the request: the contract columns (`event_time` as a datetime in UTC, `amount` as a float) and
        the known attributes, or what is wrong with that record.

    Raises
    ------
    BadRequest
        Status 415 for another content type, 400 if the body cannot be read or none of its records can.

    Examples
    --------
    >>> line = b'{"transaction_id": 1, "event_time": "2025-11-03T10:00:00Z", "customer_id": 2, "terminal_id": 3,'
    >>> parse(line + b' "amount": -5}', "application/jsonlines")
    Traceback (most recent call last):
    ...
    lifecycle.deployment.messages.BadRequest: Record 1: field 'amount' must be greater than 0.
    """
    readers = {JSON: _read_json, JSON_LINES: _read_json_lines, CSV: _read_csv}
    if content_type not in readers:
        raise BadRequest(f"This Content-Type is not read here: send {', '.join(CONTENT_TYPES)}.", 415)
    if not body.strip():
        raise BadRequest("The body is empty: send at least one payment.")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8 (byte {error.start}): send it as UTF-8.") from None
    raw = readers[content_type](text)
    if not raw:
        raise BadRequest("The body holds no record: send at least one payment.")
    record_format, written = record_format or RecordFormat(), content_type == CSV
    records = [_check_or_refuse(record, place, record_format, written) for place, record in enumerate(raw, start=1)]
    if all(isinstance(record, BadRequest) for record in records):
        raise records[0]
    return records


def _check_or_refuse(
    record: Any, place: int, record_format: RecordFormat, written: bool
) -> dict[str, Any] | BadRequest:
    """Return a checked record, or the reason why it is refused."""
    if isinstance(record, BadRequest):
        return record
    try:
        return check_record(record, place, record_format, written)
    except BadRequest as error:
        return error


def check_record(record: Any, place: int, record_format: RecordFormat, written: bool = False) -> dict[str, Any]:
    """Return the known fields of one record, checked and converted.

    Parameters
    ----------
    record
        The record as it was sent.
    place
        Its number in the request, from 1, for the message.
    record_format
        How ids and attributes are written.
    written
        True where every value is text (CSV), so that numbers are read from text.

    Raises
    ------
    BadRequest
        Naming the record and the field.
    """
    if not isinstance(record, dict):
        raise BadRequest(f"Record {place} is not an object with the fields {', '.join(CONTRACT)}.")
    absent = [name for name in IDS if record_format.ids[name] == "absent"]
    for name in CONTRACT:
        if name not in absent and (record.get(name) is None or (written and record[name] == "")):
            raise BadRequest(f"Record {place}: field '{name}' is missing.")
    checked = {
        name: _id(record[name], name, place, record_format.ids[name], written) for name in IDS if name not in absent
    }
    checked |= dict.fromkeys(absent, NO_ID)
    checked["event_time"] = _time(record["event_time"], place)
    checked["amount"] = _amount(record["amount"], place, written)
    for name, kind in record_format.attributes.items():
        checked[name] = _attribute(record.get(name), name, place, kind, written)
    return checked


def _refuse_constant(name: str) -> float:
    raise BadRequest(f"The body holds {name}, which is not JSON: numbers must be finite.")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # json.loads would make one for each request


def _load(text: str, where: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(f"{where} is not valid JSON ({error.msg} at {place}).") from None
    except (ValueError, RecursionError):
        # A number of thousands of digits, or brackets nested thousands deep.
        raise BadRequest(f"{where} is not valid JSON (a number is too long or the nesting too deep).") from None


def _read_json(text: str) -> list[Any]:
    content = _load(text, "The body")
    return content if isinstance(content, list) else [content]


def _read_json_lines(text: str) -> list[Any]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    records: list[Any] = []
    for number, line in lines:
        try:
            records.append(_load(line, f"Line {number}"))
        except BadRequest as error:
            records.append(error)
    return records


def _read_csv(text: str) -> list[dict[str, str] | BadRequest]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise BadRequest(f"The body is not valid CSV ({error}).") from None
    if not rows:
        return []
    header, first = [name.strip() for name in rows[0]], 1
    if not set(header) & set(CONTRACT):
        # Batch jobs of the platform cut a file into parts, and only the first part has the header.
        header, first = list(CONTRACT), 0
    records: list[dict[str, str] | BadRequest] = []
    for place, row in enumerate(rows[first:], start=1):
        if len(row) == len(header):
            records.append({name: value.strip() for name, value in zip(header, row, strict=True)})
        else:
            count = f"has {len(row)} values, expected {len(header)}"
            records.append(BadRequest(f"Record {place} {count}: {', '.join(CONTRACT)}, ..."))
    return records


def _id(value: Any, name: str, place: int, kind: str, written: bool) -> int | str:
    if kind == "integer":
        if written and len(value) <= 20 and value.lstrip("-").isascii() and value.lstrip("-").isdigit():
            try:
                value = int(value)
            except ValueError:
                raise BadRequest(f"Record {place}: field '{name}' must be an integer.") from None
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadRequest(f"Record {place}: field '{name}' must be an integer.")
        if not -(2**63) <= value < 2**63:
            raise BadRequest(f"Record {place}: field '{name}' does not fit into 64 bits.")
        return value
    return _text(value, name, place, longest=200)


def _text(value: Any, name: str, place: int, longest: int) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"Record {place}: field '{name}' must be text.")
    if len(value) > longest:
        raise BadRequest(f"Record {place}: field '{name}' is longer than {longest} characters.")
    if _NOT_TEXT.search(value):
        raise BadRequest(f"Record {place}: field '{name}' holds a character that is not text.")
    return value


def _time(value: Any, place: int) -> datetime:
    if not isinstance(value, str):
        raise BadRequest(
            f"Record {place}: field 'event_time' must be an ISO-8601 time with a zone, such as 2025-11-03T10:00:00Z."
        )
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise BadRequest(f"Record {place}: field 'event_time' has no time zone; write it as 2025-11-03T10:00:00Z.")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"Record {place}: field 'event_time' must be an ISO-8601 time with a zone, such as 2025-11-03T10:00:00Z."
        ) from None
    if moment.year not in YEARS:
        raise BadRequest(f"Record {place}: field 'event_time' must lie between {YEARS.start} and {YEARS.stop}.")
    return moment


def _number(value: Any, name: str, place: int, written: bool) -> float:
    if written:
        try:
            value = float(value)
        except ValueError:
            raise BadRequest(f"Record {place}: field '{name}' must be a number.") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"Record {place}: field '{name}' must be a number.")
    if not abs(value) <= LARGEST_AMOUNT:  # written so that NaN fails too
        problem = "is larger than 1e12" if isinstance(value, int) or math.isfinite(value) else "must be finite"
        raise BadRequest(f"Record {place}: field '{name}' {problem}.")
    return float(value)


def _amount(value: Any, place: int, written: bool) -> float:
    amount = _number(value, "amount", place, written)
    if not amount > 0:
        raise BadRequest(f"Record {place}: field 'amount' must be greater than 0.")
    return amount


def _attribute(value: Any, name: str, place: int, kind: str, written: bool) -> str | float | None:
    if value is None or (written and value == ""):
        return None
    return _number(value, name, place, written) if kind == "number" else _text(value, name, place, longest=2000)


def render(answers: Sequence[Mapping[str, Any]], content_type: str, single: bool = False, header: bool = True) -> bytes:
    """Write the answers as a response body.

    Parameters
    ----------
    answers
        Dicts with ``transaction_id``, ``score`` and ``decision``, or with ``error`` in place of the last two; in CSV,
        a fourth column then.
    content_type
        One of `CONTENT_TYPES`.
    single
        In JSON, write one object and not a list: the request was one object.
    header
        In CSV, begin with the names of the columns.

    Examples
    --------
    >>> render([{"transaction_id": 1, "score": 0.5, "decision": "review"}], "text/csv")
    b'transaction_id,score,decision\\n1,0.5,review\\n'
    """
    if content_type == JSON:
        return json.dumps(answers[0] if single else list(answers)).encode()
    if content_type == JSON_LINES:
        return "".join(json.dumps(answer) + "\n" for answer in answers).encode()
    columns = ["transaction_id", "score", "decision"]
    if any("error" in answer for answer in answers):
        columns.append("error")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([answer.get(name) for name in columns] for answer in answers)
    return out.getvalue().encode()


def write_records(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Return checked records as JSON lines."""
    return "".join(
        json.dumps({**record, "event_time": record["event_time"].isoformat()}) + "\n" for record in records
    ).encode()


def is_single(body: bytes, content_type: str) -> bool:
    """Return whether a JSON request is one object rather than a list of them."""
    return content_type == JSON and body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"


def has_header(body: bytes, content_type: str) -> bool:
    """Return whether a CSV request began with column names. Other types count as having one."""
    return content_type != CSV or any(name.encode() in body.split(b"\n", 1)[0] for name in CONTRACT)
