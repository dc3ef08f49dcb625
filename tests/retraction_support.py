"""What the tests of taking messages back share: a draft with its messages, and a RIS that keeps what came."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import hl7

from db import lifecycle
from db.types import Presence, ReportState, utcnow
from db.uow import unit_of_work
from dicom_node.delivery import deliver_due
from publishing.documents import draft_document
from publishing.store import keep_message
from reports.document import Code, ReportedFinding
from reports.fhir import build_bundle
from reports.hl7 import build_oru
from reports.values import DraftIdentity, stable_uid
from tests.dashboard_support import WORKER, Site, ct_study
from tests.hl7_support import MODEL
from tests.signed_support import Drafted

DRAFTED_AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SECRETS = ("zirconite", "Halcyon", "bone lesion", "no pleural")  # what only the draft says


class Ris:
    """A RIS that acknowledges everything, unless ``code`` says otherwise; ``got`` is what came."""

    def __init__(self) -> None:
        self.code, self.port = "AA", 0
        self.got: list[bytes] = []

    def statuses(self) -> list[str]:
        """OBR-25 of what came, as python-hl7 reads it."""
        return [str(hl7.parse(one).segment("OBR")[25]) for one in self.got]


def messages(site: Site, datasets: list[Any], reading: str, tracking: Mapping[str, str]) -> list[lifecycle.NewObject]:
    """What the worker makes of a draft for a RIS and an EHR that take drafts."""
    identity = DraftIdentity(str(datasets[0].StudyInstanceUID), reading, "a" * 64, DRAFTED_AT)
    document = draft_document(
        source=datasets[0],
        series=[],
        order=None,
        sections={"findings": f"A {SECRETS[0]} mass.\nThere is {SECRETS[3]} effusion.", "impression": SECRETS[1]},
        findings=[
            ReportedFinding(
                label,
                Code("786838002", "SCT", "Nodule of lung"),
                "present",
                sentence=f"{SECRETS[0]} {label}",
                tracking_uid=uid,
                algorithm=MODEL,
            )
            for label, uid in tracking.items()
        ],
        algorithms=[MODEL],
        not_assessed=[SECRETS[2]],
        organization="Nordic Hospital",
        identity=identity,
        objects=[],
    )
    made = []
    for one in site.settings.destinations[:2]:
        kind = "DRAFT_ORU" if one.protocol == "mllp" else "DRAFT_FHIR"
        uid = identity.other_uid(kind, one.name)
        if kind == "DRAFT_ORU":
            content = build_oru(document, one, site.settings.hl7, uid=uid, pdf=b"%PDF-1.7 zirconite")
        else:
            content = json.dumps(build_bundle(document, uid=uid)).encode()
        path = f"{reading}/{kind.lower()}_{one.name}"
        made.append(
            keep_message(content, kind, path, results_dir=site.settings.results_dir, uid=uid, destinations=[one.name])
        )
    return made


def drafted(site: Site) -> Drafted:
    """A study with a draft of one finding, and the messages of it owed."""
    datasets = ct_study(3)
    study_uid = str(datasets[0].StudyInstanceUID)
    tracking = {"lung tumor": stable_uid(study_uid, "lung tumor")}
    findings = [lifecycle.NewFinding("lung tumor", Presence.PRESENT, "VLM", tracking_uid=tracking["lung tumor"])]
    objects = messages(site, datasets, f"{study_uid}/first", tracking)
    study_id = site.drafted(datasets, findings=findings, objects=objects, marks=[], evidence=[])
    return Drafted(site, study_id, datasets, tracking)


def supersede(draft: Drafted) -> None:
    """An image arrives after the draft was made."""
    later = ct_study(1)[0]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(later, keyword, draft.datasets[0][keyword].value)
    draft.site.receive([later])
    assert draft.site.report(draft.study_id).state is ReportState.UNREAD


def redrafted(draft: Drafted) -> None:
    """The study is read again: a newer draft, with a finding of its own, and its messages."""
    site = draft.site
    uid = str(draft.datasets[0].StudyInstanceUID)
    tracking = {"liver tumor": stable_uid(uid, "liver tumor")}
    made = messages(site, list(draft.datasets), f"{uid}/second", tracking)
    claim = site.claimed(draft.study_id)
    with unit_of_work(site.sessions, WORKER) as uow:
        content = lifecycle.NewDraft({"findings": "Else."}, claim.image_set_sha256, "1.0", objects=made)
        lifecycle.drafted(uow, claim, content)


def deliver(site: Site, minutes: float = 0) -> int:
    """Send everything that is due, over real sockets."""
    count = 0
    while done := deliver_due(site.sessions, site.settings, utcnow() + timedelta(minutes=minutes)):
        count += done
    return count


def kept(draft: Drafted, kind: str) -> list[bytes]:
    """The files of one kind, in order of making."""
    return [(draft.site.settings.results_dir / one.path).read_bytes() for one in draft.objects(kind)]


def says_nothing(content: bytes) -> bool:
    """Whether a message has no word of the draft, of its findings, models and PDF."""
    text = content.decode().lower()
    return not any(secret.lower() in text for secret in (*SECRETS, "lung", "nodule", "Rad-VLM", "%PDF", "JVBERi"))


def rows(content: bytes, name: str) -> list[list[str]]:
    """The segments of one name; a field has its number, but in MSH one less."""
    return [one.split("|") for one in content.decode().split("\r") if one.startswith(f"{name}|")]
