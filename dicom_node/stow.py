"""Store Instances by STOW-RS (PS3.18 10.5), exactly as they are stored, one in each request.

One in each request, over one connection: an object that is too large or refused says nothing about the others, and
each is asked about at the moment it leaves.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx2
import structlog

from config.errors import UnreadableDatasetError
from db.lifecycle import DeliveryJob
from dicom_node.outcome import ONCE, Outcome, given_up, refused
from ris import web_client

log = structlog.get_logger()
_PIECE_BYTES = 256 * 1024
_REFERENCED, _FAILED, _OTHERS = "00081199", "00081198", "0008119A"
_CLASS, _INSTANCE, _WARNING, _REASON = "00081150", "00081155", "00081196", "00081197"
_EXISTS = frozenset({0xB00E})  # a server's own word for an Instance it holds already (45070)
_NEVER = frozenset({400, 406, 409, 413, 415, 422})  # the same request would be refused again
_FOR_ALL = frozenset({401, 403, 404, 405, 429, 501, 503, 507})  # and so would be the next object


@dataclass(frozen=True)
class Told:
    """What the Store Instances Response Module says (PS3.18 I.2.2): SOP Instance UID → Warning or Failure Reason."""

    stored: Mapping[str, int]
    failed: Mapping[str, int]
    unnamed: tuple[int, ...] = ()  # reasons of parts whose Instance the server could not tell


def store(client: httpx2.Client, job: DeliveryJob, path: Path) -> tuple[Outcome, bool]:
    """Send one Part 10 file; return what became of it, and whether the next object is worth a request now.

    The file is read piece by piece while it is sent.

    Raises:
        PeerUnavailableError: the server is away.
    """
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as exc:
        return Outcome(job, False, f"the object's file cannot be read: {type(exc).__name__}"), True
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Content-Length": str(len(head) + size + len(tail)),
        "Accept": "application/dicom+json, application/dicom+xml;q=0.5",
    }
    with (
        web_client.named(),
        client.stream("POST", "studies", content=_pieces(head, path, tail), headers=headers) as response,
    ):
        status, body = response.status_code, web_client.body_of(response)
        outcome = judge(job, status, body, response.headers.get("Content-Type", ""), web_client.wait_of(response))
    return outcome, status not in _FOR_ALL


def _pieces(head: bytes, path: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
    yield tail


def judge(job: DeliveryJob, status: int, body: bytes, media_type: str, wait_s: float = 0.0) -> Outcome:
    """Return what an answer means for the one object of its request (PS3.18 table 10.5.3-1).

    What the response module says of the object goes before the status: 202 holds both acceptances and failures.
    """
    told = _told(body, media_type)
    uid = job.sop_instance_uid
    if told is not None and uid in told.failed:
        return _failed(job, told.failed[uid])
    if told is not None and uid in told.stored:
        if told.stored[uid]:
            log.warning("delivery.warned", delivery_id=job.delivery_id, status=told.stored[uid])
        return Outcome(job, True, said=f"HTTP {status}")
    if told is not None and told.unnamed:
        return _failed(job, told.unnamed[0])
    if status == httpx2.codes.OK:
        return Outcome(job, True, said=f"HTTP {status}")  # every Instance was stored, whatever the body looks like
    if 200 <= status < 300:
        return Outcome(job, False, f"it answered {status} and does not say whether it stored the object", wait_s=wait_s)
    words = web_client.in_words(status)
    if status in _NEVER:
        return given_up(job, words, attempts=ONCE)
    return Outcome(job, False, words, wait_s=wait_s)


def _failed(job: DeliveryJob, reason: int) -> Outcome:
    return Outcome(job, True, said=f"0x{reason:04X}") if reason in _EXISTS else refused(job, reason)


def _told(body: bytes, media_type: str) -> Told | None:
    """Return what the response module says; None when there is none that can be read."""
    try:
        items = _from_xml(body) if "xml" in media_type.lower() else _from_json(body)
    except UnreadableDatasetError:
        return None
    stored = {one[_INSTANCE]: _number(one.get(_WARNING)) for one in items[_REFERENCED] if one.get(_INSTANCE)}
    failed = {one[_INSTANCE]: _number(one.get(_REASON)) for one in items[_FAILED] if one.get(_INSTANCE)}
    return Told(stored, failed, tuple(_number(one.get(_REASON)) for one in items[_OTHERS]))


Items = Mapping[str, list[dict[str, str]]]
"""The sequences of the module; each item holds the first value of its elements, by tag."""


def _from_json(body: bytes) -> Items:
    try:
        module = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise UnreadableDatasetError("no JSON") from exc
    if isinstance(module, list) and module:  # as some servers answer
        module = module[0]
    if not isinstance(module, dict):
        raise UnreadableDatasetError("no DICOM JSON object")
    return {tag: [_values(item) for item in _list(module, tag)] for tag in (_REFERENCED, _FAILED, _OTHERS)}


def _list(ds: dict[str, Any], tag: str) -> list[Any]:
    element = ds.get(tag)
    value = element.get("Value") if isinstance(element, dict) else None
    return value if isinstance(value, list) else []


def _values(item: Any) -> dict[str, str]:
    if not isinstance(item, dict):
        return {}
    found = {tag: _list(item, tag) for tag in (_CLASS, _INSTANCE, _WARNING, _REASON)}
    return {tag: str(value[0]) for tag, value in found.items() if value}


def _from_xml(body: bytes) -> Items:
    """Read the Native DICOM Model (PS3.19 A.1)."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise UnreadableDatasetError("XML with a document type")  # the only way to make a short text long
    try:
        root = ET.fromstring(body)  # noqa: S314 no entities, and at most 4 MiB
    except ET.ParseError as exc:
        raise UnreadableDatasetError("no XML") from exc
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
    return {
        tag: [_attributes(item) for item in root.findall(f"./DicomAttribute[@tag='{tag}']/Item")]
        for tag in (_REFERENCED, _FAILED, _OTHERS)
    }


def _attributes(item: ET.Element) -> dict[str, str]:
    found = {one.get("tag", ""): one.findtext("Value") for one in item.findall("DicomAttribute")}
    return {tag: value.strip() for tag, value in found.items() if value}


def _number(value: str | None) -> int:
    return int(value) if value and value.isdecimal() else 0
