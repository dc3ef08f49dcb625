"""Push one transaction bundle to a FHIR R4 server, and read from its answer whether every entry was kept."""

import json
import re
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from config.destination import Destination
from config.errors import PeerUnavailableError
from config.settings import Settings
from ris.answers import Answer
from ris.web_client import body_of, named, opened

_TYPE = "application/fhir+json"
_CODE = re.compile(r"[A-Za-z0-9-]{1,40}")
_STATUS = re.compile(r"[1-5]\d\d")
# A person has to look: the same bytes will be refused again. All else of 4xx may pass:
#   401, 403: tokens are renewed and rights granted, and the file is read anew at every attempt
#   404: a server that starts answers so behind its proxy
#   408, 423, 425, 429: it wants us later
#   409: somebody else wrote the same resource at that moment
_FINAL = frozenset({400, 405, 406, 410, 411, 412, 413, 414, 415, 422})
_WORDS = {
    401: "it does not accept our bearer token",
    403: "our bearer token may not do this",
    404: "it has no such service: is the URL its FHIR base?",
    405: "it takes no transactions",
    409: "somebody else changed the same resource",
    412: "a search of ours finds more than one resource there",
    413: "the bundle is too large for it",
    415: "it takes no application/fhir+json",
    422: "it finds the content unacceptable",
    429: "it wants fewer requests",
}


def push_bundle(destination: Destination, settings: Settings, content: bytes) -> Answer:
    """Send one transaction; it is accepted when the answer says so of every entry.

    Only numbers and OperationOutcome codes go into ``error``: servers put what they were sent into their texts.

    Args:
        destination: with protocol ``fhir``; ``url`` is the base. With ``tls`` our own certificate is shown.
        settings: for certificate and authorities (``dicom.tls``).
        content: the bundle as JSON. One that is no valid R4 does not leave: servers differ in what they let through.

    Raises:
        PeerUnavailableError: no connection, no answer in time, 502, 503 or 504, or the token cannot be read. Whether
            the bundle arrived is unknown; to send it again leaves no duplicates.
    """
    headers = {
        "Content-Type": _TYPE,
        "Accept": _TYPE,
        "Prefer": "return=minimal",
        # HAPI keeps labels that an update no longer has; "asserted by AI" would stay after the signature
        "X-Meta-Snapshot-Mode": "SECURITY_LABEL",
    }
    fault = _fault(content)
    if fault:
        return _refused(f"the bundle was not sent: it is no valid FHIR at {fault}", is_final=True)
    url = destination.url.rstrip("/")
    with (
        opened(destination, settings) as client,
        named(),
        client.stream("POST", url, content=content, headers=headers) as response,
    ):
        return _answer(response.status_code, body_of(response), content)


def _fault(content: bytes) -> str:
    """Return where a bundle is no valid R4, in words without values; ``""`` for a valid one.

    The models are those of R4B, which has every resource of ours as R4 has it. They are loaded by the first push:
    a fifth of a second and 22 MB, then milliseconds a bundle.
    """
    from fhir.resources.R4B.bundle import Bundle

    try:
        Bundle.model_validate_json(content)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        return ".".join(str(one) for one in first["loc"]) or "its root"
    return ""


def _answer(status: int, body: bytes, sent: bytes) -> Answer:
    said = _json(body)
    if 200 <= status < 300:
        return replace(_transaction(said, sent), said=f"HTTP {status}")
    if status in {502, 503, 504}:
        raise PeerUnavailableError(f"it answered {status}: it cannot do this now")
    if 300 <= status < 400:
        # followed, a report could end up anywhere
        return _refused(f"it answered {status}: redirects are not followed; is the URL right?", is_final=True)
    words = _WORDS.get(status) or ("it failed" if status >= 500 else "it refused")
    return _refused(f"it answered {status}: {words}{_issues(said)}", is_final=status in _FINAL)


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _transaction(said: dict[str, Any], sent: bytes) -> Answer:
    """Judge a transaction-response: as many entries as were sent, each with a status of 2xx (FHIR R4 3.1.0.11.2)."""
    if said.get("type") != "transaction-response":
        return _refused("what it answered is no transaction-response", is_final=False)
    asked = [str(one["resource"]["resourceType"]) for one in json.loads(sent)["entry"]]
    entries = said.get("entry")
    answers = [_entry(one) for one in entries] if isinstance(entries, list) else []
    for kind, (status, issues) in zip(asked, answers, strict=False):
        if not 200 <= status < 300:
            shown = str(status) if status else "nothing"
            return _refused(f"it answered {shown} for {kind}{issues}", is_final=status in _FINAL)
    if len(answers) != len(asked):
        return _refused(f"it answered {len(answers)} of {len(asked)} entries", is_final=False)
    return Answer(accepted=True)


def _entry(one: Any) -> tuple[int, str]:
    response = one.get("response") if isinstance(one, dict) else None
    if not isinstance(response, dict):
        return 0, ""
    status, outcome = _STATUS.match(str(response.get("status", ""))), response.get("outcome")
    return (int(status[0]) if status else 0), _issues(outcome if isinstance(outcome, dict) else {})


def _issues(outcome: dict[str, Any]) -> str:
    """Return the codes of an OperationOutcome's errors, never its texts."""
    issues = outcome.get("issue")
    if outcome.get("resourceType") != "OperationOutcome" or not isinstance(issues, list):
        return ""
    codes = [
        str(one.get("code"))
        for one in issues
        if isinstance(one, dict) and one.get("severity") in {"error", "fatal"} and _CODE.fullmatch(str(one.get("code")))
    ]
    return f" ({', '.join(dict.fromkeys(codes))})" if codes else ""


def _refused(error: str, *, is_final: bool) -> Answer:
    return Answer(accepted=False, error=error[:200], is_final=is_final)
