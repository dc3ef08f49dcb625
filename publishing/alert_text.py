"""What a notice about a critical result says: no patient, unless the site wants it."""

import json
import re
from collections.abc import Mapping
from datetime import UTC
from email.message import EmailMessage
from typing import Any

from config.settings import Settings
from db.critical_models import Occasion
from db.lifecycle.critical_notices import NoticeJob
from db.types import utcnow

_MODALITY = re.compile(r"[A-Z0-9]{2,16}")
_SUBJECTS: Mapping[Occasion, str] = {
    Occasion.SUSPECTED: "Suspected critical result",
    Occasion.NOT_ANSWERED: "Critical result not answered",
    Occasion.NOT_TOLD: "Critical result not communicated",
}
_ASKS: Mapping[Occasion, str] = {
    Occasion.SUSPECTED: "A draft or a resident suspects a critical result. A radiologist has to confirm or dismiss it.",
    Occasion.NOT_ANSWERED: "Nobody has confirmed or dismissed this suspected critical result in time.",
    Occasion.NOT_TOLD: "A radiologist confirmed this critical result; that somebody was told is not recorded in time.",
}


def facts(job: NoticeJob, settings: Settings) -> dict[str, Any]:
    """Return what is said of an alert: ids of ours, priority, modality, since when, and where to look."""
    said: dict[str, Any] = {
        "notice": str(job.notice_id),
        "alert": str(job.alert_id),
        "occasion": job.occasion.value,
        "level": job.level,
        "category": job.category,
        "priority": job.priority.value,
        "modality": modality(job.modalities),
        "since": job.opened_at.astimezone(UTC).isoformat(timespec="seconds"),
        "link": link(job, settings),
    }
    if settings.critical.patient_in_messages:
        said |= {
            "finding": _line(job.label),
            "patient_name": _line(job.patient_name),
            "patient_id": _line(job.patient_id),
            "accession_number": _line(job.accession_number),
        }
    return said


def link(job: NoticeJob, settings: Settings) -> str:
    """Return the address of the study's page; nothing in it comes from the images."""
    web = settings.web
    base = web.public_url or f"{'https' if web.tls_certificate else 'http'}://{web.host}:{web.port}"
    return f"{base.rstrip('/')}/studies/{job.study_id}"


def modality(values: str) -> str:
    """Return the Modalities of a Study; only codes as the Standard writes them (PS3.3 C.7.3.1.1.1)."""
    return ", ".join(one for one in values.split(",") if _MODALITY.fullmatch(one.strip()))


def post_body(job: NoticeJob, settings: Settings) -> bytes:
    """Return the JSON of a webhook, in UTF-8."""
    said = facts(job, settings) | {"sent_at": utcnow().isoformat(timespec="seconds")}
    return json.dumps(said, sort_keys=True).encode("utf-8")


def mail(job: NoticeJob, settings: Settings) -> EmailMessage:
    """Return the mail of a notice; its Message-ID is the same whenever it is sent."""
    said = facts(job, settings)
    message = EmailMessage()
    kind = f"{said['priority']}, {said['modality']}" if said["modality"] else said["priority"]
    escalated = f", escalation {job.level}" if job.level else ""
    message["Subject"] = f"{_SUBJECTS[job.occasion]} ({kind}{escalated})"
    message["From"] = settings.critical.mail_from
    message["To"] = job.recipient
    message["Message-ID"] = f"<{job.notice_id}@firstread>"
    message["X-Firstread-Notice"] = str(job.notice_id)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message["Importance"] = "high"
    lines = [
        _ASKS[job.occasion],
        "",
        f"Priority    {said['priority']}, category {said['category']}",
        f"Modality    {said['modality'] or 'not given'}",
        f"Since       {said['since']}",
        f"Alert       {said['alert']}",
    ]
    if settings.critical.patient_in_messages:
        lines += [
            f"Finding     {said['finding']}",
            f"Patient     {said['patient_name']}, {said['patient_id'] or 'no patient ID'}",
            f"Accession   {said['accession_number'] or 'not given'}",
        ]
    message.set_content("\n".join([*lines, "", said["link"], "", "Firstread sends this by itself; do not answer."]))
    return message


def _line(text: str) -> str:
    """Return text from images as one printable line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
