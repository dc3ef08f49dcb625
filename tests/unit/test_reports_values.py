"""Identities: the same result has the same UIDs everywhere, another result never has."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydicom.uid import UID

from config.errors import RefusedInputError
from reports.values import AlgorithmIdentity, DraftIdentity, Signer, stable_uid, weights_digest

BASE = DraftIdentity("1.2.3", "reading-1", "aa", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.requirement("REQ-DELIV-4")
def test_a_retry_gets_the_same_uids():
    again = replace(BASE, created_at=datetime(2026, 1, 2, tzinfo=UTC))
    assert again.sop_instance_uid("seg") == BASE.sop_instance_uid("seg")
    # SHA-256 of the parts as a UUID of version 5, worked out by hand: it must never change between releases
    assert BASE.sop_instance_uid("seg") == "2.25.331933939311778330193741550520851939066"


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, study_instance_uid="1.2.4"),
        replace(BASE, reading_id="reading-2"),
        replace(BASE, result_sha256="ab"),
    ],
)
def test_another_study_reading_or_result_gets_other_uids(other):
    for kind in ("seg", "findings_sr", "draft_sr", "preliminary_sr", "signed_sr"):
        assert other.sop_instance_uid(kind) != BASE.sop_instance_uid(kind)
        assert other.series_instance_uid(kind) != BASE.series_instance_uid(kind)


def test_all_uids_of_a_run_differ_and_are_valid():
    kinds = ("seg", "findings_sr", "draft_sr", "preliminary_sr", "signed_sr")
    uids = [BASE.series_instance_uid(kind) for kind in kinds]
    uids += [BASE.sop_instance_uid(kind, number) for kind in kinds for number in (1, 2)]
    assert len(set(uids)) == 15
    assert all(UID(uid).is_valid for uid in uids)


def test_a_site_root_is_kept_and_a_too_long_one_refused():
    uid = stable_uid("x", root="1.2.826.0.1.3680043.10.999")
    assert uid.startswith("1.2.826.0.1.3680043.10.999.")
    assert len(uid) == 64
    assert UID(uid).is_valid
    with pytest.raises(RefusedInputError, match="at least 20"):
        stable_uid("x", root="1." + "2" * 45)


def test_parts_cannot_run_into_each_other():
    assert stable_uid("ab", "c") != stable_uid("a", "bc")


@pytest.mark.requirement("REQ-MODEL-2")
def test_new_weights_are_a_new_device():
    old = AlgorithmIdentity("VISTA3D", "1", "MONAI", "aa")
    assert replace(old, weights_sha256="ab", device_uid="").device_uid != old.device_uid
    assert AlgorithmIdentity("VISTA3D", "1", "MONAI", "aa", ("threshold=0.9",)).device_uid == old.device_uid


def test_the_digest_of_several_files_ignores_their_order_but_not_their_names():
    assert weights_digest({"a": "1", "b": "2"}) == weights_digest({"b": "2", "a": "1"})
    assert weights_digest({"a": "1", "b": "2"}) != weights_digest({"a": "2", "b": "1"})


@pytest.mark.requirement("REQ-AUDIT-8")
def test_times_without_a_zone_are_refused():
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(RefusedInputError, match="created_at"):
        DraftIdentity("1.2.3", "r", "aa", naive)
    with pytest.raises(RefusedInputError, match="signed_at"):
        Signer("A", "A", "", "1", "H", naive)


@pytest.mark.parametrize(("staff_id", "organization"), [("", "Hospital"), ("7", " ")])
def test_a_signer_is_somebody_somewhere(staff_id, organization):
    with pytest.raises(RefusedInputError, match="staff id"):
        Signer("A", "A", "", staff_id, organization, datetime(2026, 1, 1, tzinfo=UTC))
