"""Priors by DICOMweb: from Orthanc, from another installation of ours, and from servers that answer anything."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy.orm import Session, sessionmaker

from db.models import Instance
from db.prior_models import PriorState, SearchState
from instances.part10 import FileMeta, file_head
from tests.dicomweb_support import serving
from tests.node_support import ct_slice, encoded
from tests.orthanc import dicomweb_plugin, running_orthanc
from tests.priors_support import TODAY, Site, report, running_site, study

Sessions = sessionmaker[Session]
Answer = tuple[int, str, bytes]


def part10(ds: Dataset) -> bytes:
    return file_head(FileMeta(str(ds.SOPClassUID), str(ds.SOPInstanceUID), ExplicitVRLittleEndian)) + encoded(ds)


def web_source(url: str, **changes: Any) -> dict[str, Any]:
    return {"name": "web", "method": "dicomweb", "url": url, **changes}


def all_is_here(site: Site, objects: list[Dataset]) -> None:
    """The one prior is here with its report, and the bytes are those that were sent to the archive."""
    (prior,) = site.priors()
    assert (prior.state, prior.reason, prior.note) == (PriorState.HERE, "", "")
    assert prior.documents[0]["sections"] == [["Impression", "Nodule."]]
    assert site.held(objects[0].StudyInstanceUID) == sorted(str(one.SOPInstanceUID) for one in objects)
    for one in objects:
        (kept,) = site.rows(Instance, sop_instance_uid=one.SOPInstanceUID)
        assert kept.sha256 == hashlib.sha256(encoded(one)).hexdigest()
    assert site.study(objects[0].StudyInstanceUID).is_prior


def history() -> list[Dataset]:
    images = study("20220102", images=3)
    return [*images, report(images[0], {"Impression": "Nodule."})]


def test_orthanc_gives_priors_by_dicomweb(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    objects = history()
    with running_orthanc(tmp_path / "pacs", Plugins=[dicomweb_plugin()]) as pacs:
        pacs.upload(*objects)
        with running_site(tmp_path / "site", [web_source(pacs.dicomweb_url)], sqlite_sessions) as site:
            site.receive(ct_slice(**TODAY))
            assert site.fetch() == 1
            all_is_here(site, objects)


def test_another_installation_gives_priors_for_a_bearer_token(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    objects = history()
    (tmp_path / "archive").mkdir()
    token = tmp_path / "token"
    with serving(tmp_path / "archive") as served:
        assert served.store(part10(one) for one in objects).status_code == 200
        token.write_text("wrong\n", encoding="ascii")
        with running_site(tmp_path / "site", [web_source(served.url, token_file=token)], sqlite_sessions) as site:
            site.receive(ct_slice(**TODAY))
            assert site.fetch() == 0
            assert site.search().reason == "web: it answered 401: it does not accept our bearer token"
            token.write_text(f"{served.token}\n", encoding="ascii")  # renewed while we run
            assert site.fetch(after_s=60) == 1
            all_is_here(site, objects)


@contextmanager
def server(answer: Callable[[str, dict[str, str]], Answer]) -> Iterator[str]:
    """An HTTP server that answers what it is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, content = answer(self.path, dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/dicom-web"
    finally:
        httpd.shutdown()
        httpd.server_close()


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        ((200, "application/dicom+json", b"{not json"), "what it answered is no DICOMweb"),
        (
            (200, "application/dicom+json", b'[{"00080020": {"vr": "DA", "Value": 5}}]'),
            "what it answered is no DICOMweb",
        ),
        ((200, "application/dicom+json", b"[[]]"), "what it answered is no DICOMweb"),
        ((503, "text/plain", b"later"), "it answered 503: it cannot do this now"),
        ((404, "text/plain", b""), "it answered 404: it has no such service or study"),
    ],
)
def test_what_is_no_answer_is_told_and_tried_again(
    tmp_path: Path, sqlite_sessions: Sessions, answered: Answer, words: str
) -> None:
    with (
        server(lambda _path, _headers: answered) as url,
        running_site(tmp_path / "site", [web_source(url)], sqlite_sessions) as site,
    ):
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        assert (site.search().state, site.search().reason) == (SearchState.WAITING, f"web: {words}")


def test_an_instance_that_is_none_is_refused_and_the_others_come(tmp_path: Path, sqlite_sessions: Sessions) -> None:
    images = study("20220102", images=3)
    good, cut, _ = images

    def answer(path: str, headers: dict[str, str]) -> Answer:
        if "/instances/" in path:
            uid = path.rpartition("/")[2]
            whole = {good.SOPInstanceUID: part10(good), cut.SOPInstanceUID: part10(cut)[:-100]}.get(uid, b"no DICOM")
            content = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + whole + b"\r\n--b--"
            return 200, 'multipart/related; type="application/dicom"; boundary=b', content
        found = images if path.partition("?")[0].endswith("/instances") else images[:1]
        # a server that knows no paging answers everything every time
        return 200, "application/dicom+json", json.dumps([_described(one) for one in found]).encode()

    with server(answer) as url, running_site(tmp_path / "site", [web_source(url)], sqlite_sessions) as site:
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        (prior,) = site.priors()
        assert prior.reason == "web: 2 of its instances could not be sent, 1 are here"
        assert site.held(good.StudyInstanceUID) == [good.SOPInstanceUID]
        assert len(site.events("instance:quarantined")) == 2


def _described(one: Dataset) -> dict[str, Any]:
    keywords = (
        "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "StudyDate",
        "StudyDescription", "IssuerOfPatientID",
    )  # fmt: skip
    described = Dataset()
    for keyword in keywords:
        setattr(described, keyword, one[keyword].value)
    described.ModalitiesInStudy, described.NumberOfStudyRelatedInstances = "CT", 3
    found: dict[str, Any] = described.to_json_dict()
    return found


def test_our_token_is_sent_and_no_other(
    tmp_path: Path, sqlite_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, netrc = tmp_path / "token", tmp_path / "netrc"
    token.write_text("secret", encoding="ascii")
    netrc.write_text("machine 127.0.0.1 login somebody password else\n", encoding="ascii")
    monkeypatch.setenv("NETRC", str(netrc))
    heard: list[str] = []

    def answer(_path: str, headers: dict[str, str]) -> Answer:
        heard.append(headers.get("Authorization", ""))
        return 200, "application/dicom+json", b"[]"

    with (
        server(answer) as url,
        running_site(tmp_path / "site", [web_source(url, token_file=token)], sqlite_sessions) as site,
    ):
        site.receive(ct_slice(**TODAY))
        assert site.fetch() == 0
        assert site.search().state is SearchState.DONE
    assert heard == ["Bearer secret"]
