"""What the dashboard tests share: a small real CT study taken to a draft, accounts, and a client that logs in."""

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from argon2 import PasswordHasher
from flask import Flask
from jinja2.bccache import Bucket, BytecodeCache
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from werkzeug.test import Client, TestResponse

from config.durable import write_durably
from config.routing import RoutingVerdict
from config.settings import Settings
from dashboard import passwords
from dashboard.app import create_app
from dashboard.passwords import hash_password
from db import lifecycle
from db.engine import make_engine, make_sessions
from db.lifecycle import InstanceHeader, NewDraft, NewEvidence, NewFinding
from db.models import AuditEvent, Reading, Series, Study
from db.report_models import Evidence, Finding, Report
from db.types import Presence, Priority, Role
from db.uow import Actor, unit_of_work
from db.users import create_user
from tests.migrated import migrated

Sessions = sessionmaker[Session]
NODE = Actor("node", "process")
WORKER = Actor("worker", "process")
PASSWORD = "correct-horse-battery"
passwords._hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)  # thousands of logins, none of them real
PEOPLE = {
    Role.VIEWER: "Vera View",
    Role.RESIDENT: "Rasmus Ident",
    Role.RADIOLOGIST: "Maria Lund",
    Role.LEAD: "Lea Head",
    Role.ADMIN: "Ada Min",
    Role.AUDITOR: "Otto Audit",
}
ROWS = COLUMNS = 128
DRAFT = RoutingVerdict("draft", profile="ct-torso", rule="ct", trace=[{"rule": "ct", "matched": True, "why": "CT"}])
SECTIONS = {
    "technique": "CT of the chest, 8 slices.",
    "comparison": "None available.",
    "findings": "There is a lung tumor of 12.4 ml in the right lung. No pleural effusion.",
    "impression": "Lung tumor on the right.",
}


def volume(slices: int = 8) -> NDArray[np.int16]:
    """A body with two lungs and a bright lesion in the patient's right lung, HU; head first."""
    _, y, x = np.mgrid[0:slices, 0:ROWS, 0:COLUMNS].astype(np.float64)
    hu = np.full((slices, ROWS, COLUMNS), -1000, dtype=np.int16)
    hu[((x - 64) / 56) ** 2 + ((y - 64) / 42) ** 2 < 1] = 40
    for center in (40, 88):
        hu[((x - center) / 18) ** 2 + ((y - 62) / 27) ** 2 < 1] = -850
    hu[((x - 64) / 9) ** 2 + ((y - 92) / 8) ** 2 < 1] = 450
    hu[lesion(slices)] = 60
    return hu


def lesion(slices: int = 8) -> NDArray[np.bool_]:
    """The voxels of the lesion, in the order of ``volume``."""
    z, y, x = np.mgrid[0:slices, 0:ROWS, 0:COLUMNS].astype(np.float64)
    ball: NDArray[np.bool_] = (x - 40) ** 2 + (y - 58) ** 2 + ((z - slices * 0.6) * 4) ** 2 < 81
    return ball


def ct_study(slices: int = 8, **changes: Any) -> list[Dataset]:
    """One axial chest CT, slices head first, 5 mm apart."""
    study, series, frame = (generate_uid() for _ in range(3))
    made = []
    for index, plane in enumerate(volume(slices)):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Halvorsen^Ingrid", "P-1001", "19580214", "F"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20261121", "083000", "1", "ACC-1001"
        ds.StudyDescription, ds.SeriesDescription, ds.SeriesNumber = "CT chest", "Chest 5.0 lung", 2
        ds.ReferringPhysicianName, ds.Modality, ds.BodyPartExamined = "Berg^Olav", "CT", "CHEST"
        ds.Manufacturer, ds.InstanceNumber = "Firstread phantom", index + 1
        ds.ImagePositionPatient = [-112.0, -112.0, 100.0 - 5.0 * index]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1.75, 1.75], 5.0
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
        ds.WindowCenter, ds.WindowWidth = -200, 1400
        ds.PixelData = plane.tobytes()
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
        made.append(ds)
    return made


@dataclass(frozen=True)
class Site:
    """One installation in a folder of its own."""

    settings: Settings
    sessions: Sessions
    app: Flask

    def receive(self, datasets: list[Dataset]) -> UUID:
        """Store and index the Instances as the node does; return the Study's id."""
        study_id = None
        for ds in datasets:
            buffer = BytesIO()
            ds.save_as(buffer, enforce_file_format=True)
            path = f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"
            write_durably(self.settings.instances_dir / path, buffer.getvalue())
            with unit_of_work(self.sessions, Actor("CT1", "peer")) as uow:
                received = lifecycle.receive_instance(
                    uow,
                    _header(ds),
                    path=path,
                    sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
                    size_bytes=len(buffer.getvalue()),
                    calling_ae="CT1",
                    called_ae="FIRSTREAD",
                    quiet_s=0.0,
                )
                study_id = received.study_id
        assert study_id is not None
        return study_id

    def reading_id(self, study_id: UUID) -> UUID:
        """The newest Reading of a Study."""
        with self.sessions() as db:
            query = select(Reading.id).where(Reading.study_id == study_id, Reading.superseded.is_(False))
            return db.scalars(query).one()

    def routed(self, study_id: UUID, verdict: RoutingVerdict = DRAFT) -> UUID:
        """Complete the Study and judge it; return the Reading's id."""
        reading_id = self.reading_id(study_id)
        with unit_of_work(self.sessions, NODE) as uow:
            lifecycle.complete(uow, reading_id, verdict)
        return reading_id

    def claimed(self, study_id: UUID) -> lifecycle.Claim:
        """Route the Study and take its Reading."""
        reading_id = self.routed(study_id)
        with unit_of_work(self.sessions, WORKER) as uow:
            claim = lifecycle.claim(uow, reading_id, owner="w", lease_s=60)
        assert claim is not None
        return claim

    def drafted(self, datasets: list[Dataset] | None = None, **changes: Any) -> UUID:
        """Take a study to a draft with a segmented lesion; return the Study's id."""
        datasets = datasets or ct_study()
        study_id = self.receive(datasets)
        claim = self.claimed(study_id)
        self._write_label_map(datasets)
        with unit_of_work(self.sessions, WORKER) as uow:
            lifecycle.drafted(uow, claim, _draft(claim, datasets, changes))
        return study_id

    def _write_label_map(self, datasets: list[Dataset]) -> None:
        # as the worker keeps it: slices along the normal, feet first
        up = datasets[::-1]
        labels = lesion(len(datasets))[::-1].astype(np.uint8) * 23
        affine = np.array(
            [[0, 0, 1.75, -112], [0, 1.75, 0, -112], [5, 0, 0, up[0].ImagePositionPatient[2]], [0, 0, 0, 1]]
        )
        buffer = BytesIO()
        np.savez_compressed(
            buffer,
            labels=labels,
            sop_instance_uids=np.array([str(ds.SOPInstanceUID) for ds in up]),
            affine=affine.astype(np.float64),
            label_values=np.array([23]),
            label_names=np.array(["lung tumor"]),
        )
        write_durably(self.settings.results_dir / f"{datasets[0].StudyInstanceUID}.npz", buffer.getvalue())

    def user(self, login: str, role: Role, printed_name: str = "Maria Lund") -> UUID:
        """Add an account with the tests' password."""
        with unit_of_work(self.sessions, NODE) as uow:
            return create_user(uow, login=login, printed_name=printed_name, role=role, password_hash=_password_hash())

    def client(self, login: str = "") -> "Browser":
        """A browser without a script; logged in when ``login`` is given."""
        browser = Browser(self.app)
        if login:
            assert browser.log_in(login).status_code == 303
        return browser

    def one(self, model: Any, **columns: Any) -> Any:
        """The one row with these column values."""
        with self.sessions() as db:
            return db.scalars(select(model).filter_by(**columns)).one()

    def report(self, study_id: UUID) -> Report:
        """The Report as it is now."""
        found: Report = self.one(Report, study_id=study_id)
        return found

    def series_id(self, study_id: UUID) -> UUID:
        """The one Series of a Study."""
        found: UUID = self.one(Series, study_id=study_id).id
        return found

    def evidence_id(self, study_id: UUID) -> UUID:
        """The one Evidence of a Study's draft."""
        found: UUID = self.one(Evidence, draft_id=self.report(study_id).draft_id).id
        return found

    def findings(self, study_id: UUID) -> list[Finding]:
        """The findings of a Study's draft."""
        with self.sessions() as db:
            query = select(Finding).where(Finding.draft_id == self.report(study_id).draft_id).order_by(Finding.position)
            return list(db.scalars(query))

    def tags(self, **columns: Any) -> list[str]:
        """Tags of the audit events with these column values, in order."""
        with self.sessions() as db:
            return list(db.scalars(select(AuditEvent.tag).filter_by(**columns).order_by(AuditEvent.seq)))


class Browser(Client):
    """A client that sends the CSRF token of the page it saw last, as a form would."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app, app.response_class)

    def token(self, page: str = "/login") -> str:
        """The CSRF token of this session."""
        match = re.search(r'name="csrf_token" value="([^"]+)"', self.get(page, follow_redirects=True).text)
        assert match is not None
        return match[1]

    def submit(self, path: str, *, htmx: bool = False, **fields: Any) -> TestResponse:
        """Send a form."""
        headers = {"HX-Request": "true"} if htmx else {}
        return self.post(path, data={"csrf_token": self.token("/account/password"), **fields}, headers=headers)

    def log_in(self, login: str, password: str = PASSWORD, **fields: Any) -> TestResponse:
        """Send the login form."""
        return self.post("/login", data={"csrf_token": self.token(), "login": login, "password": password, **fields})


class _Templates(BytecodeCache):
    """Templates compiled once for all sites of a test process; keyed by their name and source."""

    def __init__(self) -> None:
        self._compiled: dict[str, Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._compiled.get(bucket.key + bucket.checksum)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._compiled[bucket.key + bucket.checksum] = bucket.code


_TEMPLATES = _Templates()


@cache
def _password_hash() -> str:
    return hash_password(PASSWORD)


def make_site(folder: Path, database_url: str = "", **changes: Any) -> Site:
    """An installation with one account per role, in a migrated database; a new one in ``folder`` without a URL."""
    changes.setdefault("review", {"hold_s": 0})  # what is signed is due at once
    settings = Settings(data_dir=folder, database_url=database_url, **changes)
    if not database_url:
        migrated(settings.database)
    sessions = make_sessions(make_engine(settings.database))
    site = Site(settings, sessions, create_app(settings, sessions))
    site.app.jinja_env.bytecode_cache = _TEMPLATES
    for role, name in PEOPLE.items():
        site.user(role.value, role, name)
    return site


def _header(ds: Dataset) -> InstanceHeader:
    return InstanceHeader(
        study_instance_uid=ds.StudyInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
        sop_instance_uid=ds.SOPInstanceUID,
        sop_class_uid=ds.SOPClassUID,
        transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
        patient_id=ds.PatientID,
        patient_name=str(ds.PatientName),
        patient_birth_date=ds.PatientBirthDate,
        patient_sex=ds.PatientSex,
        accession_number=ds.AccessionNumber,
        study_date=ds.StudyDate,
        study_time=ds.StudyTime,
        study_description=ds.StudyDescription,
        modality=ds.Modality,
        series_number=ds.SeriesNumber,
        series_description=ds.SeriesDescription,
        body_part=ds.BodyPartExamined,
        instance_number=ds.InstanceNumber,
    )


def _draft(claim: lifecycle.Claim, datasets: list[Dataset], changes: dict[str, Any]) -> NewDraft:
    names = changes.pop("destinations", None)
    if names is not None:
        changes["objects"] = [replace(one, destinations=names) for one in changes.get("objects", [])]
    first, key = datasets[0], datasets[min(round(len(datasets) * 0.6), len(datasets) - 1)]
    values: dict[str, Any] = {
        "sections": SECTIONS,
        "image_set_sha256": claim.image_set_sha256,
        "pipeline_version": "firstread-0.1",
        "findings": [
            NewFinding(
                "lung tumor",
                Presence.PRESENT,
                "VLM after VISTA3D",
                code_meaning="Neoplasm of lung",
                laterality="right",
                score=0.91,
                sentence="There is a lung tumor of 12.4 ml in the right lung.",
                evidence_index=0,
                segment_label=23,
                measurements=[{"name": "volume", "value": 12.4, "unit": "ml"}],
                key_slice={
                    "series_instance_uid": str(first.SeriesInstanceUID),
                    "sop_instance_uid": str(key.SOPInstanceUID),
                    "index": len(datasets) - 1 - datasets.index(key),
                },
            ),
            NewFinding("pleural effusion", Presence.ABSENT, "VLM after VISTA3D", score=0.04, evidence_index=0),
        ],
        "evidence": [
            NewEvidence(
                "VISTA3D",
                argument="lung tumor",
                version="0.1.0-demo",
                weights_sha256={"model.safetensors": "a" * 64},
                seconds=4.2,
                output={"volumes_ml": {"lung tumor": 12.4, "right lung": 2310.5}},
                series_instance_uid=str(first.SeriesInstanceUID),
                label_map_path=f"{first.StudyInstanceUID}.npz",
            )
        ],
        "not_assessed": [{"what": "bone lesion", "why": "VISTA3D does not offer it"}],
        "marks": [
            {
                "kind": "omission",
                "finding": "hepatic tumor",
                "text": "VISTA3D found hepatic tumor; the draft does not mention it.",
            }
        ],
        "demonstration": True,
        "provenance": {
            "route": "questions",
            "pipeline_version": "firstread-0.1",
            "models": [
                {"role": "VLM", "name": "VILA-M3 demo", "version": "0.1.0-demo", "licence": "Apache-2.0",
                 "weights_sha256": {"llm.safetensors": "b" * 64}, "demonstration": True},
                {"role": "VISTA3D", "name": "VISTA3D", "version": "0.1.0-demo", "licence": "Apache-2.0",
                 "weights_sha256": {"model.safetensors": "a" * 64}, "demonstration": True},
            ],
            "instances_used": {str(first.SeriesInstanceUID): [str(ds.SOPInstanceUID) for ds in datasets]},
        },
        "priority": Priority.URGENT,
    }  # fmt: skip
    return NewDraft(**(values | changes))


__all__ = ["DRAFT", "PASSWORD", "SECTIONS", "Browser", "Site", "Study", "ct_study", "make_site"]
