"""An archive that is reached by DICOMweb: search by QIDO-RS, fetch by WADO-RS (PS3.18 10.6, 10.4)."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from config.errors import InvalidUidError, PeerUnavailableError, UnreadableDatasetError
from config.settings import PriorSource, Settings
from dicom_node.retrieve import Fetched, Retrieval, received
from dicom_node.transfer_syntaxes import is_storage_sop_class
from instances import storing
from instances.arrival import Announced
from instances.header import valid_uid
from instances.part10 import HEAD_BYTES, split_file
from instances.storing import Keeper

_CONNECT_S, _READ_S = 10.0, 60.0
_PAGE = 500
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_NO_DICOMWEB = "what it answered is no DICOMweb"
_WORDS = {
    401: "it does not accept our bearer token",
    403: "our bearer token may not do this",
    404: "it has no such service or study",
}


class WebArchive(DICOMwebClient):  # type: ignore[misc]  # untyped for us
    """One archive under our bearer token; its failures are told in words that hold no address and no UID."""

    def __init__(self, source: PriorSource, settings: Settings) -> None:
        """Prepare a client; nothing is sent yet.

        Raises:
            PeerUnavailableError: the token file cannot be read.
        """
        logging.getLogger("dicomweb_client").setLevel(logging.ERROR)  # its lines quote UIDs
        session = requests.Session()
        session.trust_env = False  # a .netrc of the account must not replace the token
        if settings.dicom.tls.authorities:
            session.verify = str(settings.dicom.tls.authorities)
        with _named():
            super().__init__(source.url.rstrip("/"), session=session, timeout=(_CONNECT_S, _READ_S))
        self.set_http_retry_params(retry=False)  # the retrieval is retried as a whole, with longer delays
        if source.token_file:
            try:
                token = source.token_file.read_text(encoding="ascii").strip()
            except (OSError, ValueError) as exc:
                raise PeerUnavailableError(f"the token file of {source.name} cannot be read") from exc
            session.headers["Authorization"] = f"Bearer {token}"

    def studies(self, identifier: Dataset, *, limit: int = _PAGE) -> list[Dataset]:
        """Return the Studies that match; elements without a value are asked to be returned.

        Raises:
            PeerUnavailableError: no answer, a refusal, or no DICOM JSON.
        """
        values = {e.keyword: str(e.value) for e in identifier if e.keyword != "QueryRetrieveLevel"}
        asked = {keyword: value for keyword, value in values.items() if value}
        wanted = [keyword for keyword, value in values.items() if not value]
        with _named():
            found = self.search_for_studies(limit=limit, fields=wanted, search_filters=asked)
            return [Dataset.from_json(one) for one in found[:limit]]

    def series(self, study_instance_uid: str) -> list[Dataset]:
        """Return the Series of a Study, with their body parts.

        Raises:
            PeerUnavailableError: see :meth:`studies`.
        """
        with _named():
            found = self.search_for_series(study_instance_uid, limit=_PAGE, fields=["BodyPartExamined"])
            return [Dataset.from_json(one) for one in found[:_PAGE]]

    def fetch(self, retrieval: Retrieval, keeper: Keeper, announced: Announced, held: Collection[str]) -> Fetched:
        """Fetch the Instances of a Study that are not held, each as it is stored, one in memory at a time.

        Each is a request of its own, so another attempt goes on where this one was lost.

        Args:
            retrieval: what to fetch.
            keeper: where Instances go.
            announced: what is the same for each of them: the AE titles and our Message ID.
            held: SOP Instance UIDs that need not come.

        Raises:
            PeerUnavailableError: the archive went away; what came stays.
        """
        fetched = Fetched()
        for one in self._instances(retrieval.study_instance_uid):
            sop_class, uid = str(one.get("SOPClassUID", "")), str(one.get("SOPInstanceUID", ""))
            if uid in held or not is_storage_sop_class(sop_class):
                continue
            url = self._instance_url(retrieval.study_instance_uid, str(one.get("SeriesInstanceUID", "")), uid)
            if self._keep(url, keeper, replace(announced, sop_class_uid=sop_class, sop_instance_uid=uid)):
                fetched.completed += 1
            else:
                fetched.failures += 1
                fetched.failed.append(uid)
        return fetched

    def _instances(self, study_instance_uid: str) -> Iterator[Dataset]:
        """Yield each Instance of a Study once, page after page; a server without paging repeats itself."""
        seen: set[str] = set()
        while True:
            with _named():
                page = self.search_for_instances(study_instance_uid, limit=_PAGE, offset=len(seen))
                found = {str(ds.SOPInstanceUID): ds for ds in map(Dataset.from_json, page)}
            new = found.keys() - seen
            if not new:
                return
            seen |= new
            yield from (found[uid] for uid in sorted(new))

    def _instance_url(self, study: str, series: str, instance: str) -> str:
        try:
            uids = [valid_uid(uid, what="UID") for uid in (study, series, instance)]
        except InvalidUidError as exc:
            raise PeerUnavailableError("it answered with a UID that is none") from exc
        return "{}/studies/{}/series/{}/instances/{}".format(self.base_url, *uids)

    def _keep(self, url: str, keeper: Keeper, announced: Announced) -> bool:
        part = self._part(url)
        try:
            meta, offset = split_file(bytes(part[:HEAD_BYTES]))
        except UnreadableDatasetError as exc:
            storing.refuse(keeper, announced, None, exc)
            return False
        announced = replace(announced, transfer_syntax_uid=meta.transfer_syntax_uid)
        pieces = [memoryview(part)[offset:]]
        return received(keeper, announced, pieces, abstract_syntax=announced.sop_class_uid)[0] == storing.SUCCESS

    def _part(self, url: str) -> bytes:
        """Return the Part 10 file behind an address: its bytes, where the package would give a parsed Dataset."""
        with _named():
            response = self._http_get(url, headers={"Accept": _AS_STORED}, stream=True)
            if response.headers.get("Content-Type", "").lower().startswith("application/dicom"):
                return bytes(response.content)  # not packed as it should be, by some servers
            return bytes(next(self._decode_multipart_message(response, stream=True), b""))


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except requests.HTTPError as exc:
        status = exc.response.status_code if exc.response is not None else 0
        raise PeerUnavailableError(f"it answered {status}: {_WORDS.get(status, 'it cannot do this now')}") from exc
    except (requests.exceptions.InvalidJSONError, requests.exceptions.ContentDecodingError) as exc:
        raise PeerUnavailableError(_NO_DICOMWEB) from exc
    except requests.Timeout as exc:
        raise PeerUnavailableError("it did not answer in time") from exc
    except requests.RequestException as exc:
        raise PeerUnavailableError("no connection, or it was lost") from exc
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise PeerUnavailableError(_NO_DICOMWEB) from exc
