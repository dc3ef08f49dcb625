"""The provenance record of a draft: what it was made from, by what, where, and what came out.

One immutable record per attempt that ended in a draft. With it an auditor can say which weights wrote a
sentence, and `worker.reproduce` can run the attempt again. Nothing in it names the patient: Study, order and
people are rows it points to.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from config.drafting_code import drafting_code_sha256
from config.settings import ROOT, Settings
from db.lifecycle import Claim, NewObject
from db.models import Reading
from db.queries import InstancePath
from worker.composition import ROUTE
from worker.drafting import DraftContent
from worker.experts.base import Classification, ExpertResult, ModelCard, SegmentationResult
from worker.intake import Intake
from worker.segments import algorithm
from worker.vlm.backends import VisionLanguageModel, VlmCard

SCHEMA = 2
"""Version of the record's shape."""

PIPELINE_VERSION = "0.3.0"

_PACKAGES = (
    "torch", "transformers", "monai", "torchxrayvision", "highdicom", "pydicom", "numpy", "scipy", "simpleitk",
    "deepbet", "pillow",
)  # fmt: skip
_CARD_FIELDS = ("name", "version", "licence", "research_only", "demonstration", "weights_sha256", "regulatory")
_VLM_FIELDS = ("base", "backend", "revision", "template", "style", "published_cards")


def provenance_record(
    content: DraftContent,
    intake: Intake,
    held: Sequence[InstancePath],
    vlm: VisionLanguageModel,
    settings: Settings,
) -> dict[str, Any]:
    """Return what one run of the pipeline was: inputs, models, conversations, decoding, machine, outcome.

    Args:
        content: what was found.
        intake: what was read and what was not.
        held: the Instances of the Study, with the hashes of their reception.
        vlm: the model that drafted.
        settings: in force; only their digest is kept, since they hold secrets and addresses.
    """
    return {
        "schema": SCHEMA,
        "pipeline_version": PIPELINE_VERSION,
        **content.provenance,
        **_inputs(intake, held),
        "priors_used": content.priors_used,
        "preprocessing": _preprocessing(settings),
        "models": models_record(content.results.values(), vlm.card),
        "decoding": {
            "mode": "greedy",
            "temperature": 0.0,
            "top_p": None,
            "seed": None,
            "max_new_tokens": settings.worker.max_new_tokens,
            **vlm.runtime,
        },
        "experts": [_expert_run(result) for result in content.results.values()],
        "environment": environment(settings),
        "outcome": outcome(content),
        "deterministic": vlm.card.backend != "openai" and settings.worker.quantization == "none",
    }


def job_record(claim: Claim, reading: Reading, timings: Mapping[str, float]) -> dict[str, Any]:
    """Return who did the work and when: queue, lease, timings in seconds."""
    return {
        "reading_id": str(claim.reading_id),
        "study_id": str(claim.study_id),
        "revision": claim.revision,
        "attempt": claim.attempts,
        "profile": claim.profile,
        "rule": reading.rule,
        "completed_at": _instant(reading.completed_at),
        "started_at": _instant(reading.started_at),
        "worker": claim.owner,
        "host": socket.gethostname(),
        "seconds": {step: round(seconds, 3) for step, seconds in timings.items()},
    }


def objects_record(objects: Iterable[NewObject]) -> list[dict[str, str]]:
    """Return every DICOM object made, with its SHA-256."""
    return [{"kind": o.kind, "sop_instance_uid": o.sop_instance_uid, "sha256": o.sha256} for o in objects]


def models_record(results: Iterable[ExpertResult], vlm: VlmCard) -> list[dict[str, Any]]:
    """Return every model that took part, the language model first: version, licence, hashes, Device UID, clearance."""
    experts = {result.card.name: result.card for result in results}
    rows: list[dict[str, Any]] = [{"role": "VLM"} | _fields(vlm, (*_CARD_FIELDS, *_VLM_FIELDS))]
    rows += [{"role": name} | _fields(card, _CARD_FIELDS) for name, card in experts.items()]
    return rows


def _fields(card: VlmCard | ModelCard, names: Sequence[str]) -> dict[str, Any]:
    values = asdict(card)
    return {name: values[name] for name in names} | {"device_uid": algorithm(card).device_uid}


def _inputs(intake: Intake, held: Sequence[InstancePath]) -> dict[str, Any]:
    used = {uid: sorted({str(ds.SOPInstanceUID) for ds in headers}) for uid, headers in intake.headers.items()}
    every = {uid for uids in used.values() for uid in uids}
    hashes = {one.sop_instance_uid: one.sha256 for one in held}
    return {
        "instances_used": used,
        "instances_sha256": {uid: hashes[uid] for uid in sorted(every)},
        "instances_not_used": sorted(set(hashes) - every),
    }


def _preprocessing(settings: Settings) -> dict[str, Any]:
    return {
        "code_sha256": drafting_code_sha256(),
        "commit": commit(),
        "settings_sha256": settings_sha256(settings),
        "text_rules": ROUTE,
    }


def _expert_run(result: ExpertResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "expert": result.card.name,
        "argument": result.argument,
        "version": result.card.version,
        "seconds": round(result.seconds, 3),
        "notes": list(result.notes),
        "details": dict(result.details),
    }
    if isinstance(result, Classification):
        return row | {"threshold": result.threshold, "calibration": result.calibration}
    return row


def environment(settings: Settings) -> dict[str, Any]:
    """Return what the run depended on beside code and models (provenance: container, lock file, libraries, GPU)."""
    cuda = torch.cuda.is_available()
    return {
        "image_digest": settings.image_digest,
        "lock_sha256": _file_sha256(ROOT / "requirements.lock"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda if cuda else None,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def outcome(content: DraftContent) -> dict[str, Any]:
    """Return what a repetition must equal: texts, decisions, scores, label maps."""
    return {
        "sections": dict(content.sections),
        "findings": {
            f.label: {
                "present": f.is_present,
                "expert_positive": f.expert_positive,
                "score": None if f.score is None else round(f.score, 6),
                "laterality": f.measured.laterality if f.measured else "",
            }
            for f in content.findings
        },
        "not_assessed": sorted(item["what"] for item in content.not_assessed),
        "answers": [turn["answer"] for turn in content.provenance["conversations"]],
        "results": {"/".join(key): result_sha256(result) for key, result in sorted(content.results.items())},
    }


def result_sha256(result: ExpertResult) -> str:
    """Return one digest of an Expert's output: the label map's bytes, or the probabilities to six places."""
    if isinstance(result, SegmentationResult):
        return hashlib.sha256(result.labels.tobytes()).hexdigest()
    rounded = {label: p if p is None else round(p, 6) for label, p in result.probabilities.items()}
    return hashlib.sha256(json.dumps(rounded, sort_keys=True).encode()).hexdigest()


@cache
def commit() -> str:
    """Return the commit of the checkout, ``""`` where there is no repository (a container)."""
    head = ROOT / ".git" / "HEAD"
    if not head.is_file():
        return ""
    named = head.read_text(encoding="ascii").strip()
    if not named.startswith("ref: "):
        return named
    branch = named.removeprefix("ref: ")
    loose = ROOT / ".git" / branch
    if loose.is_file():
        return loose.read_text(encoding="ascii").strip()
    packed = ROOT / ".git" / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {branch}")), "")


def settings_sha256(settings: Settings) -> str:
    """Return the digest of the settings that can change a draft; secrets and addresses are not among them."""
    kept = settings.model_dump(mode="json", include={"worker", "models", "organization"})
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@cache
def _file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _instant(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
