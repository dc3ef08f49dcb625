"""Which earlier Studies are compared with first, and when one is this patient's."""

from dataclasses import replace
from uuid import UUID

import pytest

from db.lifecycle.prior_values import FoundPrior, PatientFacts, SearchJob
from dicom_node.prior_choice import (
    Candidate,
    by_issuer,
    date_range,
    eligible,
    identity_mismatch,
    rank,
    regions,
    same_name,
)

JANE = PatientFacts("P-1", "HOSP", "Doe^Jane", "19600203", "F")
NOBODY = UUID(int=0)
JOB = SearchJob(NOBODY, NOBODY, "1.2.9", JANE, "20240229", "DX", "CHEST", "Chest radiograph")


def candidate(uid: str, date: str, modalities: str, description: str = "", **changes: str) -> Candidate:
    found = FoundPrior(uid, "pacs", "c-get", date, modalities, description, None)
    return Candidate(found, **changes)


def uids(candidates: list[Candidate]) -> list[str]:
    return [one.found.study_instance_uid for one in candidates]


def test_modality_goes_before_region_and_region_before_recency() -> None:
    some = [
        candidate("1.6", "20240101", "MR", "MR knee"),
        candidate("1.5", "20240102", "CT", "CT abdomen"),
        candidate("1.4", "20200101", "CT", "CT Thorax nativ"),
        candidate("1.3", "20240201", "DX", "Hand left"),
        candidate("1.2", "20210101", "DX\\SR", "CXR PA"),
        candidate("1.1", "20230101", "DX", "Chest 2 views"),
        candidate("1.25", "20240110", "DX", ""),
    ]
    assert uids(rank(some, JOB)) == ["1.1", "1.2", "1.25", "1.3", "1.4", "1.5", "1.6"]


def test_reports_alone_do_not_make_a_shared_modality() -> None:
    job = replace(JOB, modalities="DX,SR")
    assert uids(rank([candidate("1.1", "20240101", "MR,SR"), candidate("1.2", "20230101", "CR")], job)) == [
        "1.2",
        "1.1",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("RX TÓRAX PA", {"chest"}),
        ("CHESTABDOMEN", {"chest", "abdomen"}),
        ("CT CAP with contrast", {"abdomen", "pelvis"}),
        ("Schädel nativ", {"head"}),
        ("BRAIN", {"head"}),
        ("LSPINE", {"spine"}),
        ("", set()),
        ("Charm offensive", set()),
    ],
)
def test_regions_are_read_from_words(text: str, found: set[str]) -> None:
    assert regions(text) == found


def test_only_earlier_days_within_the_years_count_and_never_the_study_itself() -> None:
    some = [
        candidate("1.2.9", "20230101", "DX"),
        candidate("1.1", "20240229", "DX"),
        candidate("1.2", "20240301", "DX"),
        candidate("1.3", "", "DX"),
        candidate("1.4", "20190228", "DX"),
        candidate("1.5", "20240228", "DX"),
        candidate("1.5", "20240228", "DX"),
        candidate("1.6", "2024.02.01", "DX"),
        candidate("1.7", "20190301", "DX"),
    ]
    assert uids(eligible(some, JOB, years=5.0)) == ["1.5", "1.7"]
    assert date_range(JOB, 5.0) == "20190301-20240229"


def test_another_issuer_is_another_patient() -> None:
    some = [candidate("1.1", "20230101", "DX", issuer="HOSP"), candidate("1.2", "20230101", "DX", issuer="CLINIC")]
    kept, why = by_issuer(some, "HOSP")
    assert (uids(kept), kept[0].found.note) == (["1.1"], "")
    assert why == "1 of another issuer of this Patient ID"


def test_an_issuer_missing_at_the_archive_is_noted() -> None:
    kept, why = by_issuer([candidate("1.1", "20230101", "DX")], "HOSP")
    assert kept[0].found.note == "the archive names no issuer of the Patient ID, our study does"
    assert why == ""


def test_an_issuer_missing_at_our_side_is_noted_unless_the_archive_knows_several() -> None:
    one = candidate("1.1", "20230101", "DX", issuer="HOSP")
    kept, _ = by_issuer([one], "")
    assert kept[0].found.note == "our study names no issuer of the Patient ID, the archive does"
    assert by_issuer([one, candidate("1.2", "20230101", "DX", issuer="CLINIC")], "") == (
        [],
        "our study names no issuer of the Patient ID, and the archives know it from several",
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Doe^Jane", "DOE^JANE", True),
        ("Müller^Jürgen", "MULLER^JURGEN", True),
        ("Müller^Jürgen", "MUELLER^JUERGEN", True),
        ("Ma\u0308rz^Eva", "MAERZ^EVA", True),
        ("Muller^Eva", "Mueller^Eva", False),
        ("Sørensen^Åse", "Sorensen^Ase", True),
        ("Doe^Jane^M", "Doe^Jane", True),
        ("Doe^Jane^M", "Doe^Jane^K", False),
        ("Doe^Jane^^Dr", "Doe^Jane", True),
        ("Doe^Jane", "Doe Jane", True),
        ("O'Neil^Sean", "ONEIL^SEAN", True),
        ("Yamada^Tarou=山田^太郎", "YAMADA^TAROU", True),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^次郎", False),
        ("=山田^太郎", "Yamada^Tarou", False),
        ("Doe^Jane", "Doe^Janet", False),
        ("Doe^Jane", "Jane^Doe", False),
        ("Doe^Jane", "", False),
        ("", "", False),
    ],
)
def test_names_are_compared_as_people_write_them(one: str, other: str, same: bool) -> None:
    assert same_name(one, other) is same
    assert same_name(other, one) is same


@pytest.mark.requirement("REQ-BIND-8")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"birth_date": "19600204"}, "the birth date differs"),
        ({"sex": "M"}, "the sex differs"),
        ({"sex": ""}, ""),
        ({"sex": "female"}, ""),
        ({"name": "Roe^Jane"}, "the name differs"),
        ({"name": ""}, "the name differs"),
        ({"patient_id": "P-2"}, "it has another Patient ID"),
        ({"issuer": "CLINIC"}, "its Patient ID is of another issuer"),
        ({"birth_date": ""}, ""),
        ({"issuer": ""}, ""),
        (
            {"issuer": "", "birth_date": ""},
            "neither a birth date nor an issuer of the Patient ID proves that it is the same patient",
        ),
    ],
)
def test_a_prior_must_be_of_the_same_patient(changes: dict[str, str], why: str) -> None:
    assert identity_mismatch(JANE, replace(JANE, **changes)) == why
