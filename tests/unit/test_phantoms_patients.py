"""Synthetic people are plainly synthetic, varied, and always the same."""

from datetime import date

import pytest
from pydicom import Dataset

from phantoms.patients import make_patient


def test_the_same_seed_is_the_same_person() -> None:
    assert make_patient(7) == make_patient(7)
    assert make_patient(7) != make_patient(8)


def test_everyone_is_marked_synthetic_and_unique() -> None:
    people = [make_patient(seed) for seed in range(300)]
    assert all(p.patient_id.startswith("SYN-") for p in people)
    assert len({p.patient_id for p in people}) == len({p.accession_number for p in people}) == 300


def test_names_vary_in_script_and_sexes_in_number() -> None:
    people = [make_patient(seed) for seed in range(300)]
    names = {p.name for p in people}
    assert len(names) > 20
    assert sum(not n.isascii() for n in names) > 10
    assert any(n.count("=") == 2 for n in names)
    assert 100 < sum(p.sex == "F" for p in people) < 200


def test_the_phantoms_sex_wins() -> None:
    assert {make_patient(seed, sex="M").sex for seed in range(10)} == {"M"}


@pytest.mark.parametrize("seed", range(40))
def test_values_fit_their_vr(seed: int) -> None:
    person = make_patient(seed)
    assert len(person.accession_number) <= 16
    assert all(len(group) <= 64 for group in person.name.split("="))
    born, studied = (date(int(d[:4]), int(d[4:6]), int(d[6:])) for d in (person.birth_date, person.study_date))
    birthdays = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
    assert person.age_years == birthdays
    assert 18 <= birthdays <= 93
    ds = Dataset()
    ds.PatientName = person.name
    assert ds.PatientName.family_name
