"""A FHIR R4 server on this machine: it takes transactions as the specification says, and judges every resource."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qs

from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from tests.fhir_support import judged_bundle

Resource = dict[str, Any]


@dataclass
class FhirServer:
    """What it holds, by type; ``refusal`` answers instead of it, ``entry_status`` stands for one type of entry."""

    url: str = ""
    held: dict[str, list[Resource]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    token: str = ""
    refusal: Response | None = None
    entry_status: dict[str, str] = field(default_factory=dict)
    versions: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def the(self, kind: str) -> Resource:
        """The only resource of a type."""
        (found,) = self.held[kind]
        return found

    def counts(self) -> dict[str, int]:
        """How many there are of each type."""
        return {kind: len(found) for kind, found in sorted(self.held.items())}

    def answer(self, request: Request) -> Response:
        """Answer one request."""
        self.requests.append(request)
        request.get_data()
        if self.refusal is not None:
            return self.refusal
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return Response("who?", 401)
        if request.method != "POST" or request.path != "/fhir":
            return Response("", 404)
        if request.mimetype != "application/fhir+json":
            return Response("", 415)
        bundle = json.loads(request.get_data())
        judged_bundle(bundle)
        if self.entry_status:
            entries = [self._said(one["resource"]["resourceType"]) for one in bundle["entry"]]
        else:
            entries = self._transaction(bundle)
        said = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
        return Response(json.dumps(said), 200, content_type="application/fhir+json")

    def _said(self, kind: str) -> Resource:
        issue = {"severity": "error", "code": "invariant", "diagnostics": "Halvorsen is not a name"}
        outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
        return {"response": {"status": self.entry_status.get(kind, "200 OK"), "outcome": outcome}}

    def _transaction(self, bundle: Resource) -> list[Resource]:
        """Decide every entry against what is held before, then replace the urn:uuid in all of them (R4 3.1.0.11.2)."""
        plan: list[tuple[str, str, Resource | None]] = []
        for entry in bundle["entry"]:
            request, kind = entry["request"], entry["resource"]["resourceType"]
            query = request["ifNoneExist"] if request["method"] == "POST" else request["url"].partition("?")[2]
            matches = [one for one in self.held.get(kind, []) if _matches(one, query)]
            assert len(matches) < 2, "412"
            assert request["url"].partition("?")[0] == kind
            plan.append((entry["fullUrl"], request["method"], matches[0] if matches else None))
        ids = {url: match["id"] if match else f"s{next(self._numbers)}" for url, _, match in plan}
        names = {
            url: f"{entry['resource']['resourceType']}/{ids[url]}"
            for entry, (url, _, _) in zip(bundle["entry"], plan, strict=True)
        }
        answers = []
        for entry, (url, method, match) in zip(bundle["entry"], plan, strict=True):
            if match is not None and method == "POST":
                answers.append({"response": {"status": "200 OK", "location": names[url]}})
                continue
            resource = _resolved(entry["resource"], names) | {"id": ids[url]}
            kept = self.held.setdefault(resource["resourceType"], [])
            if match is not None:
                kept.remove(match)
            kept.append(resource)
            answers.append({"response": {"status": "200 OK" if match else "201 Created", "location": names[url]}})
        self.versions += 1
        return answers


def _matches(resource: Resource, query: str) -> bool:
    wanted = parse_qs(query, strict_parsing=True)
    assert wanted.keys() in ({"identifier"}, {"_tag"}), "the search must find one thing by what it is called"
    (token,) = wanted["identifier"] if "identifier" in wanted else wanted["_tag"]
    pieces = re.split(r"(?<!\\)\|", token)
    assert len(pieces) == 2, "a token is system|value"
    assert not re.search(r"(?<!\\)(?:\\\\)*[,$]", token), "this would be another search"
    system, value = (re.sub(r"\\(.)", r"\1", piece) for piece in pieces)
    if "identifier" in wanted:
        return any((one.get("system", ""), one["value"]) == (system, value) for one in resource.get("identifier", ()))
    return any((one["system"], one["code"]) == (system, value) for one in resource.get("meta", {}).get("tag", ()))


def _resolved(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _resolved(inner, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


@contextmanager
def fhir_server(context: SSLContext | None = None) -> Iterator[FhirServer]:
    """Serve while the context is open."""
    server = FhirServer()

    @Request.application
    def application(request: Request) -> Response:
        try:
            return server.answer(request)
        except (AssertionError, ValueError, KeyError, SyntaxError) as exc:
            issue = {"severity": "error", "code": "processing", "diagnostics": str(exc)}
            outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
            return Response(json.dumps(outcome), 412 if str(exc).startswith("412") else 422)

    listening = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=context)
    server.url = f"http{'s' if context else ''}://localhost:{listening.server_port}/fhir"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
