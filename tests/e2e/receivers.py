"""Those who get results, none of them ours: a RIS by python-hl7's server, an EHR that checks each resource."""

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import Any

import hl7
from fhir.resources.R4B import get_fhir_model_class
from fhir.resources.R4B.bundle import Bundle
from hl7.mllp import start_hl7_server
from werkzeug import Request, Response
from werkzeug.serving import make_server


@dataclass
class Ris:
    """Takes HL7 messages over MLLP and acknowledges each with AA."""

    port: int = 0
    messages: list[hl7.Message] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def start(self) -> "Ris":
        """Listen on a free port."""
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        assert ready.wait(10)
        return self

    def stop(self) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def of(self, accession: str) -> list[hl7.Message]:
        """Return the messages about one order."""
        return [one for one in list(self.messages) if str(one.segment("OBR")[18]) == accession]

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def listen() -> None:
            server = await start_hl7_server(self._serve, host="127.0.0.1", port=0, encoding="utf-8", limit=1 << 24)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.create_task(listen())
        self._loop.run_forever()

    async def _serve(self, reader: Any, writer: Any) -> None:
        try:
            while not writer.is_closing():
                message = await reader.readmessage()
                self.messages.append(message)
                writer.writemessage(message.create_ack())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@dataclass
class Ehr:
    """Takes FHIR transaction Bundles; every resource must be valid, and is kept by what identifies it."""

    resources: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def start(self) -> "Ehr":
        """Listen on a free port."""
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self._server.server_port}/fhir"

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()

    def reports(self, accession: str) -> list[dict[str, Any]]:
        """Return the DiagnosticReports about one order, oldest first."""
        found = [one for one in self.resources if one["resourceType"] == "DiagnosticReport"]
        return [one for one in found if accession in json.dumps(one)]

    def _answer(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        try:
            entries = self._taken(request)
            body = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
            response = Response(json.dumps(body), 200, mimetype="application/fhir+json")
        except ValueError as exc:
            self.refusals.append(str(exc))
            response = Response(json.dumps({"resourceType": "OperationOutcome"}), 422, mimetype="application/fhir+json")
        return response(environ, start_response)

    def _taken(self, request: Request) -> list[dict[str, Any]]:
        bundle = json.loads(request.get_data())
        Bundle.model_validate(bundle)
        for entry in bundle["entry"]:
            resource = entry["resource"]
            get_fhir_model_class(resource["resourceType"]).model_validate(resource)
            self.resources.append(resource)
        return [{"response": {"status": "201 Created"}} for _ in bundle["entry"]]
