"""The only code that moves a Reading, a Report or a Delivery: by table, with its audit event and its message."""

from db.lifecycle.amending import AMENDABLE, Amending, addend, correct, corrected_sections, with_addenda
from db.lifecycle.checking import Checked
from db.lifecycle.completion import Receiving, complete, complete_now, receiving, situation, study_facts
from db.lifecycle.deliveries import claim_delivery, delivered, delivery_failed, resubmit
from db.lifecycle.holding import release_hold, stop
from db.lifecycle.quarantine import quarantine
from db.lifecycle.queueing import process_again, requeue_due, requeue_expired
from db.lifecycle.reception import receive_instance, receive_instances
from db.lifecycle.reception_usual import receive_more
from db.lifecycle.review import SECTION_KEYS, decide_finding, open_review, reject, release, save_sections, text_sha256
from db.lifecycle.signing import sign
from db.lifecycle.values import (
    Claim,
    DeliveryJob,
    InstanceHeader,
    NewDraft,
    NewEvidence,
    NewFinding,
    NewInstance,
    NewObject,
    Received,
)
from db.lifecycle.viewing import count_view, has_seen_images, open_view, seconds_of
from db.lifecycle.work import claim, drafted, fail, heartbeat, no_draft, retry

__all__ = [
    "AMENDABLE",
    "SECTION_KEYS",
    "Amending",
    "Checked",
    "Claim",
    "DeliveryJob",
    "InstanceHeader",
    "NewDraft",
    "NewEvidence",
    "NewFinding",
    "NewInstance",
    "NewObject",
    "Received",
    "Receiving",
    "addend",
    "claim",
    "claim_delivery",
    "complete",
    "complete_now",
    "correct",
    "corrected_sections",
    "count_view",
    "decide_finding",
    "delivered",
    "delivery_failed",
    "drafted",
    "fail",
    "has_seen_images",
    "heartbeat",
    "no_draft",
    "open_review",
    "open_view",
    "process_again",
    "quarantine",
    "receive_instance",
    "receive_instances",
    "receive_more",
    "receiving",
    "reject",
    "release",
    "release_hold",
    "requeue_due",
    "requeue_expired",
    "resubmit",
    "retry",
    "save_sections",
    "seconds_of",
    "sign",
    "situation",
    "stop",
    "study_facts",
    "text_sha256",
    "with_addenda",
]
