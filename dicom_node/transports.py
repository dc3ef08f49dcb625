"""How each protocol of a destination sends: one function each, all with the same outcome."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from config.errors import UnreadableDatasetError
from config.settings import Destination, Settings
from db.lifecycle import DeliveryJob
from dicom_node import scu, stow
from dicom_node.outcome import DECLINED_ATTEMPTS, ONCE, IsWanted, Outcome, Transport, given_up, refused
from instances.part10 import HEAD_BYTES, split_file
from ris import web_client
from ris.answers import Answer
from ris.fhir_client import push_bundle
from ris.mllp import send_message


def by_c_store(
    settings: Settings, destination: Destination, jobs: Sequence[DeliveryJob], is_wanted: IsWanted
) -> Iterator[Outcome]:
    """Send DICOM objects by C-STORE over one association, or as few as their presentation contexts need."""
    waiting = {}
    for job in jobs:
        try:
            waiting[_outgoing(settings, job)] = job
        except (OSError, UnreadableDatasetError) as exc:
            yield _unreadable(job, exc)
    address = scu.address_of(destination, settings)
    for sent in scu.store(address, list(waiting), is_wanted=lambda item: is_wanted(waiting[item])):
        yield _judged(waiting[sent.item], sent)


def _outgoing(settings: Settings, job: DeliveryJob) -> scu.Outgoing:
    path = settings.results_dir / job.path
    with path.open("rb") as file:
        meta, _ = split_file(file.read(HEAD_BYTES))
    return scu.Outgoing(path, meta.sop_class_uid, meta.transfer_syntax_uid)


def _judged(job: DeliveryJob, sent: scu.Sent) -> Outcome:
    if sent.accepted:
        return Outcome(job, True, said=f"0x{sent.status or 0:04X}")
    if sent.was_declined:
        return given_up(job, sent.error, attempts=DECLINED_ATTEMPTS)
    if sent.status is None:
        return Outcome(job, False, sent.error)
    return refused(job, sent.status, sent.comment)


def by_stow_rs(
    settings: Settings, destination: Destination, jobs: Sequence[DeliveryJob], is_wanted: IsWanted
) -> Iterator[Outcome]:
    """Send DICOM objects by STOW-RS, each in a request of its own over one connection."""
    with web_client.opened(destination, settings) as client:
        is_open, last = True, None
        for job in jobs:
            if not is_open and last is not None:
                yield Outcome(job, False, last.error, wait_s=last.wait_s)  # it would hear the same
            elif is_wanted(job):
                last, is_open = stow.store(client, job, settings.results_dir / job.path)
                yield last


def by_mllp(
    settings: Settings, destination: Destination, jobs: Sequence[DeliveryJob], is_wanted: IsWanted
) -> Iterator[Outcome]:
    """Send HL7 messages, each until its acknowledgement."""
    for job, content in _contents(settings, jobs, is_wanted):
        yield _answered(job, content if isinstance(content, OSError) else send_message(destination, settings, content))


def by_fhir(
    settings: Settings, destination: Destination, jobs: Sequence[DeliveryJob], is_wanted: IsWanted
) -> Iterator[Outcome]:
    """Send FHIR bundles, each as one transaction."""
    for job, content in _contents(settings, jobs, is_wanted):
        yield _answered(job, content if isinstance(content, OSError) else push_bundle(destination, settings, content))


def _contents(
    settings: Settings, jobs: Sequence[DeliveryJob], is_wanted: IsWanted
) -> Iterator[tuple[DeliveryJob, bytes | OSError]]:
    for job in jobs:
        content = _content(settings.results_dir / job.path)
        if is_wanted(job):
            yield job, content


def _content(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as exc:
        return exc


def _answered(job: DeliveryJob, answer: Answer | OSError) -> Outcome:
    if isinstance(answer, OSError):
        return _unreadable(job, answer)
    if answer.accepted:
        return Outcome(job, True, said=answer.said)
    if answer.is_final:
        return given_up(job, answer.error, attempts=ONCE)
    return Outcome(job, False, answer.error)


def _unreadable(job: DeliveryJob, exc: Exception) -> Outcome:
    return Outcome(job, False, f"the object's file cannot be read: {type(exc).__name__}")


TRANSPORTS: Mapping[str, Transport] = {
    "c-store": by_c_store,
    "stow-rs": by_stow_rs,
    "mllp": by_mllp,
    "fhir": by_fhir,
}
"""By the protocol of a destination."""
