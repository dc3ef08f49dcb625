"""A draft with real objects: two findings, each in a Segmentation of its own, the findings SR and the narrative."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from pydicom.dataset import Dataset
from sqlalchemy import select

from config.destination import Destination
from config.results import ResultKind, wants
from db import lifecycle
from db.lifecycle import NewFinding, NewObject
from db.models import Delivery, ResultObject
from db.report_models import Finding
from db.types import Presence, utcnow
from db.uow import Actor, unit_of_work
from publishing.store import keep_object
from reports.findings_form import build_findings_form
from reports.findings_sr import build_findings_sr
from reports.key_images import build_key_images
from reports.narrative_sr import basic_text, build_narrative_sr
from reports.pictures import KeyPicture
from reports.segmentation import build_segmentation
from reports.sr_common import Evidence
from reports.values import FindingValue, InstanceReference, MeasurementValue, Section, SegmentSpec, stable_uid
from tests.dashboard_support import SECTIONS, Browser, Site, ct_study, lesion
from tests.reports_sources import ALGORITHM, EQUIPMENT, identity_of

LABELS: Mapping[str, str] = {"lung tumor": "ct.lung_tumor", "hepatic tumor": "ct.hepatic_tumor"}
PACS = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=11119)
DRAFTS = Destination(name="DRAFTS", ae_title="DRAFTS", host="127.0.0.1", port=11118, drafts=True)
SENDER = Actor("node", "process")


@dataclass(frozen=True)
class Drafted:
    """One study with a draft; ``tracking`` is label → Tracking UID."""

    site: Site
    study_id: UUID
    datasets: Sequence[Dataset]
    tracking: Mapping[str, str]

    def finding(self, label: str) -> Finding:
        """The finding of one label as it is now."""
        return next(one for one in self.site.findings(self.study_id) if one.label == label)

    def decide(self, browser: Browser, **decisions: str) -> None:
        """Decide findings; a name is the first word of a label, a rejection's reason follows after a colon."""
        for word, said in decisions.items():
            label = next(one for one in LABELS if one.startswith(word))
            decision, _, reason = said.partition(":")
            answer = browser.submit(
                f"/studies/{self.study_id}/findings/{self.finding(label).id}",
                version=self.site.report(self.study_id).version,
                decision=decision,
                reason=reason or "Seen otherwise",
            )
            assert answer.status_code == 303

    def objects(self, kind: str = "") -> list[ResultObject]:
        """What was made of this study, of one kind if given, in the order of making."""
        with self.site.sessions() as db:
            query = select(ResultObject).where(ResultObject.study_id == self.study_id)
            rows = db.scalars(query.order_by(ResultObject.created_at, ResultObject.path)).all()
            return [one for one in rows if not kind or one.kind == kind]

    def owed(self) -> dict[tuple[str, str], str]:
        """(file name, destination) → state of the delivery."""
        with self.site.sessions() as db:
            query = select(ResultObject.path, Delivery.destination, Delivery.state).join(
                Delivery, Delivery.result_object_id == ResultObject.id
            )
            rows = db.execute(query.where(ResultObject.study_id == self.study_id)).all()
        return {(path.rpartition("/")[2], name): state.value for path, name, state in rows}

    def deliver(self, *kinds: str) -> int:
        """Let the destinations accept what is owed, of these kinds or all; return how many."""
        count = 0
        while job := self.claim():
            with unit_of_work(self.site.sessions, SENDER) as uow:
                if kinds and job.kind not in kinds:
                    lifecycle.delivery_failed(uow, job.delivery_id, "busy", base_s=3600.0, max_attempts=99)
                else:
                    lifecycle.delivered(uow, job.delivery_id)
                    count += 1
        return count

    def claim(self) -> lifecycle.DeliveryJob | None:
        """Take what is due as a sender does."""
        with unit_of_work(self.site.sessions, SENDER) as uow:
            return lifecycle.claim_delivery(uow, utcnow(), lease_s=60.0)


def drafted(
    site: Site, *, slices: int = 4, destinations: Sequence[Destination] | None = None, key_images: bool = False
) -> Drafted:
    """Take a study to a draft with objects that are owed as the worker owes them.

    The two findings are best seen on the first and the second slice; ``key_images`` selects both.
    """
    datasets = ct_study(slices)
    destinations = site.settings.destinations if destinations is None else destinations
    tracking = {label: stable_uid(str(datasets[0].StudyInstanceUID), label) for label in LABELS}
    findings = [
        NewFinding(
            label,
            Presence.PRESENT,
            "VLM after VISTA3D",
            code_value="108369006",
            code_scheme="SCT",
            code_meaning="Neoplasm",
            score=0.9,
            sentence=SECTIONS["findings"],
            evidence_index=0,
            measurements=[{"name": "volume", "value": 12.4, "unit": "ml"}],
            key_slice={"sop_instance_uid": str(datasets[index].SOPInstanceUID), "index": index},
            tracking_uid=uid,
        )
        for index, (label, uid) in enumerate(tracking.items())
    ]
    objects = _objects(site, datasets, tracking, destinations)
    if key_images:
        objects.append(_key_images(site, datasets, tracking, destinations))
    study_id = site.drafted(datasets, findings=findings, objects=objects, marks=[])
    return Drafted(site, study_id, datasets, tracking)


def _key_images(
    site: Site, datasets: list[Dataset], tracking: Mapping[str, str], destinations: Sequence[Destination]
) -> NewObject:
    selection = build_key_images(
        [KeyPicture(ds, None, caption=label) for ds, label in zip(datasets, tracking, strict=False)],
        Evidence(datasets[0], ()),
        identity=identity_of(datasets[0]),
        equipment=EQUIPMENT,
        algorithms=[ALGORITHM],
    )
    return keep_object(
        selection,
        ResultKind.KEY_IMAGES,
        f"{datasets[0].StudyInstanceUID}/key_images.dcm",
        results_dir=site.settings.results_dir,
        destinations=destinations,
        tracking_uids=sorted(tracking.values()),
    )


def _objects(
    site: Site, datasets: list[Dataset], tracking: Mapping[str, str], destinations: Sequence[Destination]
) -> list[NewObject]:
    identity = identity_of(datasets[0])
    images = [InstanceReference.of(ds) for ds in datasets]
    folder = str(datasets[0].StudyInstanceUID)
    made: list[tuple[str, ResultKind, Dataset, Sequence[str]]] = []
    segmentations, label_maps = [], []
    for number, (label, key) in enumerate(LABELS.items(), 1):
        spec = SegmentSpec(1, label, key, None, ALGORITHM, tracking[label], f"firstread:{key}")
        mask = lesion(len(datasets)).astype(np.uint8)
        seg = build_segmentation(
            datasets, mask, segments=[spec], identity=identity, equipment=EQUIPMENT, instance_number=number
        )
        segmentations.append(seg)
        made.append((f"seg_{number}", ResultKind.SEG, seg, [tracking[label]]))
        if any(wants(one, ResultKind.SEG_LABELMAP) for one in destinations):
            seg = build_segmentation(
                datasets,
                mask,
                segments=[spec],
                identity=identity,
                equipment=EQUIPMENT,
                instance_number=number,
                form="labelmap",
            )
            label_maps.append(seg)
            made.append((f"seg_labelmap_{number}", ResultKind.SEG_LABELMAP, seg, [tracking[label]]))
    values = [
        FindingValue(
            label,
            key,
            "present",
            0.9,
            None,
            ALGORITHM,
            tracking[label],
            f"firstread:{key}",
            measurements=(MeasurementValue("volume", 12.4, "cm3"),),
        )
        for label, key in LABELS.items()
    ]
    evidence = Evidence(datasets[0], images, segmentations)
    findings = build_findings_sr(values, evidence, identity=identity, equipment=EQUIPMENT)
    takers: dict[str, list[Destination]] = {"findings_sr": []}
    made.append(("findings_sr", ResultKind.FINDINGS_SR, findings, list(tracking.values())))
    for one in destinations:
        along = {"binary": segmentations, "labelmap": label_maps, "none": []}[one.segmentation]
        form = build_findings_form(findings, along, sources={}, identity=identity)
        name = "findings_sr" if form is findings else f"findings_sr_{one.segmentation}"
        if name not in takers:
            made.append((name, ResultKind.FINDINGS_SR, form, list(tracking.values())))
        takers.setdefault(name, []).append(one)
    ours = [InstanceReference.of(one) for one in (*segmentations, findings)]
    narrative = build_narrative_sr(
        [Section("findings", SECTIONS["findings"])],
        Evidence(datasets[0], [*images, *ours]),
        identity=identity,
        equipment=EQUIPMENT,
        algorithms=[ALGORITHM],
    )
    made.append(("draft_sr", ResultKind.DRAFT_SR, narrative, []))
    made.append(("draft_text_sr", ResultKind.DRAFT_TEXT_SR, basic_text(narrative, identity=identity), []))
    return [
        keep_object(
            ds,
            kind,
            f"{folder}/{name}.dcm",
            results_dir=site.settings.results_dir,
            destinations=takers.get(name, destinations),
            tracking_uids=shown,
        )
        for name, kind, ds, shown in made
    ]
