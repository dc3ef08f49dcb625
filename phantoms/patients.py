"""People who do not exist: identities for synthetic studies, by seed."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

# PN values: alphabetic=ideographic=phonetic component groups (PS3.5 6.2.1), written in ISO_IR 192. Each row
# is an ordinary name of its language; that the person is synthetic is said by the Patient ID.
_NAMES: dict[str, tuple[str, ...]] = {
    "F": (
        "Moreau^Élise",
        "Krämer^Ängela^^Dr.",
        "Yamada^Hanako=山田^花子=やまだ^はなこ",
        "Kim^Minji=김^민지",
        "Wang^Xiaoli=王^小丽",
        "Nguyễn^Thị Hoa",
        "Иванова^Ольга^Петровна",
        "O'Sullivan^Siobhán",
        "Παπαδοπούλου^Ελένη",
        "Öztürk^Gülşen",
        "Garcia Lopez^María José",
        "Smith^Rosalind",
        "Adeyemi^Folasade",
        "قباني^ليلى",
    ),
    "M": (
        "Müller^Jürgen",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "Hong^Gildong=洪^吉洞=홍^길동",
        "Zhang^Wei=张^伟",
        "Dvořák^Tomáš",
        "Кузнецов^Алексей",
        "Sørensen^Åge",
        "Ó Briain^Pádraig",
        "Silva de Souza^João^^^Jr.",
        "Łukasiewicz^Stanisław",
        "קליין^דוד",
        "Johnson^Marcus^Lee",
        "Okafor^Chukwuemeka",
        "Sharma^Vikram",
    ),
}
_REFERRERS = ("Albers^Ruth^^Dr.", "Fontaine^Luc^^Dr.", "Tanaka^Ken^^Dr.", "Novák^Petr^^MUDr.", "Osei^Ama^^Dr.")
_FIRST_STUDY_DAY = date(2025, 1, 6)
_STUDY_DAYS = 360
_ADULT_YEARS = (19, 92)


@dataclass(frozen=True)
class PatientIdentity:
    """Who a synthetic study is of, and the order it answers; VRs and lengths as PS3.5 asks.

    Attributes:
        patient_id: begins with ``SYN-``, so that nobody takes it for a person's.
        name: Person Name, one to three component groups, in Unicode.
        sex: ``"F"`` or ``"M"``.
        birth_date: DA.
        age_years: whole years on the study date.
        accession_number: unique per seed.
        study_date: DA.
        study_time: TM.
        referring_physician: Person Name.
    """

    patient_id: str
    name: str
    sex: str
    birth_date: str
    age_years: int
    accession_number: str
    study_date: str
    study_time: str
    referring_physician: str


def make_patient(seed: int, *, sex: str | None = None) -> PatientIdentity:
    """Return synthetic patient ``seed``: an adult, always the same one.

    Args:
        seed: 0 <= seed < 10**9.
        sex: of the phantom the study shows; None draws it.
    """
    rng = np.random.default_rng([seed, 101])
    drawn = "F" if rng.random() < 0.5 else "M"
    name_index = int(rng.integers(len(_NAMES["F"])))
    studied = _FIRST_STUDY_DAY + timedelta(days=int(rng.integers(_STUDY_DAYS)))
    age = int(rng.integers(*_ADULT_YEARS))
    born = date(studied.year - age, studied.month, 1) - timedelta(days=int(rng.integers(1, 300)))
    before_birthday = (studied.month, studied.day) < (born.month, born.day)
    chosen = sex or drawn
    return PatientIdentity(
        patient_id=f"SYN-{seed:09d}",
        name=_NAMES[chosen][name_index % len(_NAMES[chosen])],
        sex=chosen,
        birth_date=born.strftime("%Y%m%d"),
        age_years=studied.year - born.year - int(before_birthday),
        accession_number=f"SYN{seed:09d}",
        study_date=studied.strftime("%Y%m%d"),
        study_time=f"{int(rng.integers(7, 21)):02d}{int(rng.integers(60)):02d}{int(rng.integers(60)):02d}",
        referring_physician=str(_REFERRERS[int(rng.integers(len(_REFERRERS)))]),
    )
