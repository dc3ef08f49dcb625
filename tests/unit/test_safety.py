"""The linter over sentences as radiologists write them: what it must catch, and what it must leave alone."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from safety.facts import FindingFact, Issue, Measure, ReportFacts, Severity
from safety.linter import BLOCKING, RULES, key_of, lint

TODAY = date(2026, 11, 22)


def found(label: str, side: Any = "", decision: str = "accepted", **more: Any) -> FindingFact:
    return FindingFact("f-1", label, decision=decision, side=side, **more)


def facts(text: str, *findings: FindingFact, **changes: Any) -> ReportFacts:
    """A chest CT of a woman of 68; ``text`` is its findings."""
    values: dict[str, Any] = {
        "sections": {"findings": text, "impression": changes.pop("impression", "As above.")},
        "today": TODAY,
        "patient_sex": "F",
        "patient_age": 68,
        "modalities": frozenset({"CT"}),
        "body_part": "CHEST CT chest",
        "findings": findings,
    }
    if "sections" in changes:
        values["sections"] |= changes.pop("sections")
    return ReportFacts(**(values | changes))


EFFUSION_L, EFFUSION_R = found("Effusion", "left"), found("Effusion", "right")
TUMOR = found("lung tumor", "right", measures=[Measure("volume", 12.4, "volume"), Measure("length", 31.0, "diameter")])
PTX_R = found("Pneumothorax", "right", sentence="There is a pneumothorax on the right.")
OFF = found("Pneumothorax", decision="rejected", sentence="There is a pneumothorax.")
NOT_SEEN = FindingFact("f-2", "Effusion", presence="absent")
MR: dict[str, Any] = {"modalities": frozenset({"MR"}), "body_part": "BRAIN"}
XR: dict[str, Any] = {"modalities": frozenset({"DX"})}

# (rule that must be raised, or "" for none; the facts)
TABLE: list[tuple[str, ReportFacts]] = [
    # sides
    ("laterality", facts("There is a small left pleural effusion.", EFFUSION_R)),
    ("laterality", facts("Moderate effusion on the left, with basal atelectasis.", EFFUSION_R)),
    ("laterality", facts("Left-sided effusion. Heart size is normal.", EFFUSION_R)),
    ("laterality", facts("Effusion in the left hemithorax; the right lung is clear.", EFFUSION_R)),
    ("laterality", facts("3.1 cm lung mass in the left upper lobe.", TUMOR)),
    ("laterality", facts("Left pneumothorax. Right ventricle is enlarged.", PTX_R, has_communication=True)),
    ("", facts("No left pleural effusion. Small right effusion.", EFFUSION_R)),
    ("", facts("Left-sided chest tube in a right pleural effusion.", EFFUSION_R)),
    ("", facts("Right pleural effusion with a left subclavian central line.", EFFUSION_R)),
    ("", facts("Right pleural effusion, and dilated left atrium.", EFFUSION_R)),
    ("", facts("Small effusion on the right; the right ventricle is normal, left atrial size too.", EFFUSION_R)),
    ("", facts("Opacities in the right lower lobe and left apex. Right effusion.", EFFUSION_R)),
    ("", facts("Lung mass in the right lower lobe and left apex.", TUMOR)),
    ("", facts("Bilateral pleural effusions.", EFFUSION_R)),
    ("", facts("Right effusion and left lower lobe atelectasis.", EFFUSION_R)),
    ("", facts("Right effusion, left atelectasis.", EFFUSION_R)),
    ("", facts("The right pneumothorax shifts the mediastinum to the left.", PTX_R, has_communication=True)),
    ("", facts("The drain was left in place; right effusion.", EFFUSION_R)),
    ("", facts("Right and left pleural effusions.", EFFUSION_L)),
    ("", facts("Effusion, larger on the right than on the left.", EFFUSION_R)),
    ("", facts("Left pleural effusion.", found("Effusion", ""))),
    ("", facts("Left lung is clear. There is an effusion on the right.", EFFUSION_R)),
    ("", facts("Tumor of the lung on the right. Left lower lobe cyst.", found("lung tumor", "right"))),
    ("side_conflict", facts("Right pleural effusion.", impression="Left pleural effusion.")),
    ("side_conflict", facts("Consolidation of the left lower lobe.", impression="Right basal consolidation.")),
    ("", facts("Right pleural effusion. No left effusion.", impression="Effusion on the right.")),
    ("", facts("Bilateral effusions, larger on the left.", impression="Right effusion, smaller than the left one.")),
    ("", facts("Nodules in the right apex and the left base.", impression="Nodule of the left base.")),
    ("study_side", facts("Left knee joint effusion.", body_part="KNEE", study_side="right")),
    ("", facts("Right knee: no effusion.", body_part="KNEE", study_side="right")),
    # what was decided
    ("rejected_asserted", facts("There is a pneumothorax.", OFF, has_communication=True)),
    ("rejected_asserted", facts("Small apical pneumothorax, unexpected.", OFF, has_communication=True)),
    ("rejected_asserted", facts("No effusion, but there is a pneumothorax.", OFF, has_communication=True)),
    ("rejected_asserted", facts("No effusion. ", OFF, impression="Pneumothorax.", has_communication=True)),
    ("", facts("No pneumothorax.", OFF)),
    ("", facts("Pneumothorax is not seen.", OFF)),
    ("", facts("No pleural effusion or pneumothorax.", OFF)),
    ("", facts("The lungs are clear, without consolidation, effusion or pneumothorax.", OFF)),
    ("", facts("Pneumothorax is unlikely; skin fold.", OFF)),
    ("", facts("Repeat film recommended to exclude pneumothorax.", OFF)),
    ("", facts("Pneumothorax has been excluded.", OFF)),
    ("", facts("Lungs clear.", OFF)),
    ("accepted_denied", facts("No pleural effusion.", EFFUSION_R)),
    ("accepted_denied", facts("There is no evidence of effusion or consolidation.", EFFUSION_R)),
    ("accepted_denied", facts("Effusion: none.", EFFUSION_R)),
    ("accepted_missing", facts("The lungs are clear.", EFFUSION_R)),
    ("", facts("No pneumothorax. There is an effusion.", EFFUSION_R)),
    ("", facts("No effusion on the left. Right effusion of 2 cm.", EFFUSION_R)),
    ("", facts("Pleural fluid on the right.", EFFUSION_R)),
    ("", facts("No mass, but a small effusion.", EFFUSION_R)),
    ("", facts("Not only atelectasis but an effusion too.", EFFUSION_R)),
    ("", facts("Effusion, recommend aspiration.", EFFUSION_R)),
    ("edited_unchanged", facts("There is a nodule.", found("nodule", decision="edited", sentence="There is a nodule.",
                                                          instead="A granuloma."))),
    ("", facts("A granuloma.", found("nodule", decision="edited", sentence="There is a nodule."))),
    ("absent_asserted", facts("Small pleural effusion.", NOT_SEEN)),
    ("", facts("No pleural effusion.", NOT_SEEN)),
    # sizes
    ("number", facts("Lung tumor of 21.4 ml in the right lung.", TUMOR)),
    ("number", facts("Lung tumor of 12.4 cm in the right lung.", TUMOR)),
    ("number", facts("Right lung mass measuring 31 cm.", TUMOR)),
    ("number", facts("Right lung mass, 13 x 9 mm.", TUMOR)),
    ("", facts("Lung tumor of 12.4 ml in the right lung.", TUMOR)),
    ("", facts("Right lung mass, 12 cc.", TUMOR)),
    ("", facts("Right lung mass measuring 3.1 x 2.2 cm.", TUMOR)),
    ("", facts("Right lung mass, 31 mm on 1 mm slices.", TUMOR)),
    ("", facts("Right lung mass of 3.1 cm, previously 2.4 cm.", TUMOR, has_prior=True)),
    ("", facts("Right lung mass of 28 mm.", TUMOR, drawn=[Measure("length", 28.2)])),
    ("", facts("Right lung mass. Aorta of 38 mm.", TUMOR)),
    # patient and study
    ("sex", facts("The prostate is enlarged.", body_part="PELVIS")),
    ("sex", facts("Uterus is normal.", patient_sex="M", body_part="ABDOMEN")),
    ("sex", facts("Clear lungs.", sections={"history": "68-year-old man with cough."})),
    ("", facts("The prostate is enlarged.", patient_sex="O", body_part="PELVIS")),
    ("", facts("Uterus and adnexa are normal.", body_part="PELVIS")),
    ("", facts("Lung nodules, in keeping with metastases of an ovarian carcinoma.", patient_sex="M")),
    ("", facts("Clear lungs.", sections={"history": "68-year-old woman, cough. Brother had prostate cancer."})),
    ("age", facts("Clear lungs.", sections={"history": "45-year-old woman with cough."})),
    ("modality", facts("Clear lungs.", sections={"technique": "MRI of the chest with gadolinium."})),
    ("modality", facts("This CT shows clear lungs.", **XR)),
    ("modality", facts("Hyperintense lesion on FLAIR.")),
    ("", facts("Clear lungs.", sections={"technique": "CT of the chest, 5 mm slices, contrast."})),
    ("", facts("Nodule. CT is recommended.", **XR)),
    ("", facts("Hyperintense lesion on FLAIR in the left frontal lobe.", **MR)),
    ("", facts("Compared with the radiograph of 2024, clear lungs.", has_prior=True)),
    ("body_part", facts("Tear of the medial meniscus.")),
    ("body_part", facts("The lungs are clear.", body_part="KNEE")),
    ("body_part", facts("The liver is normal.", **MR)),
    ("", facts("The liver and adrenals as far as shown are normal.")),
    ("", facts("Dedicated MRI of the brain is recommended.")),
    ("", facts("The lungs are clear.", body_part="")),
    # comparisons
    ("comparison", facts("The nodule is unchanged.")),
    ("comparison", facts("Compared with the prior CT, the nodule has grown.")),
    ("comparison", facts("No change since the last study.")),
    ("comparison", facts("Interval increase of the mass.")),
    ("", facts("The nodule is unchanged.", has_prior=True)),
    ("", facts("No prior study is available for comparison.")),
    ("", facts("Enlarged compared with the left side.")),
    ("", facts("Persistent left superior vena cava.")),
    ("", facts("Degenerative changes of the spine.")),
    ("", facts("No acute bony changes. No focal change of the liver.")),
    ("", facts("Follow-up CT in three months to show that it is unchanged.")),
    # text
    ("placeholder", facts("Nodule of [ ] mm.")),
    ("placeholder", facts("Effusion on the [left/right].")),
    ("placeholder", facts("Nodule of ___ mm.")),
    ("", facts("Nodule (series 3, image [45]).")),
    ("impression_empty", facts("Clear lungs.", impression=" ")),
    ("date_future", facts("Seen on 2027-03-01.")),
    ("", facts("Seen on 2026-11-22.")),
    ("", facts("Follow-up on 2027-03-01.")),
    # critical
    ("critical_untold", facts("There is a right pneumothorax.", PTX_R)),
    ("critical_open", facts("Clear lungs.", open_alerts=["pneumothorax"])),
    ("", facts("Right pneumothorax. Discussed with Dr. Berg at 10:05.", PTX_R)),
    ("", facts("No pneumothorax.")),
    # written before they were tried, and kept: three of 36 were judged wrongly at first
    ("", facts("Effusion is seen on the right, none on the left.", EFFUSION_R)),
    ("laterality", facts("There is left basal effusion with adjacent atelectasis of the left lower lobe.", EFFUSION_R)),
    ("", facts("The costophrenic angles are sharp; pneumothorax cannot be seen.", OFF)),
    ("", facts("Status post right upper lobectomy. Small left effusion.", EFFUSION_L)),
    ("laterality", facts("A small to moderate sized pleural effusion is present on the left side.", EFFUSION_R)),
    ("", facts("Right-sided pleural effusion has been drained via a left-sided approach.", EFFUSION_R)),
    ("rejected_asserted", facts("Findings in keeping with a small pneumothorax.", OFF, has_communication=True)),
    ("", facts("Lungs and pleura: no pneumothorax, no effusion, no consolidation.", OFF)),
    ("accepted_denied", facts("The pleural spaces are free of effusion.", EFFUSION_R)),
    ("", facts("No large effusion; small effusion in the right costophrenic recess.", EFFUSION_R)),
    ("number", facts("The right lung tumor measures 45 x 30 mm.", TUMOR)),
    ("comparison", facts("Previously seen nodule is no longer visible.")),
    ("", facts("Stable vertebral alignment; no fracture.")),
    ("side_conflict", facts("There is opacity in the left mid zone.", impression="Right mid zone opacity.")),
    ("", facts("Fracture of the left clavicle and of the right fifth rib.", impression="Left clavicular fracture.")),
    ("critical_untold", facts("Filling defects in keeping with acute pulmonary embolism on both sides.")),
    ("", facts("Pulmonary embolism is excluded.")),
    # ordinary drafts of the pipeline
    ("", facts("No hepatic tumor. Not assessed: pancreatic tumor, lung tumor, bone lesion.",
               found("lung tumor", decision="rejected"))),
    ("", facts("Lung tumor. Segmented lung tumor, right side: 12.4 ml in total, longest axial diameter 31 mm, on "
               "slices 59 to 63 (15 mm along the slice normal).", replace(TUMOR, measures=[*TUMOR.measures,
               Measure("length", 15.0)]))),
    ("", facts("Pleural effusion. Cardiomegaly. No atelectasis, consolidation, infiltration, pneumothorax or mass.",
               found("Effusion"), found("Cardiomegaly"), OFF)),
    ("", facts("None of the assessed findings is seen.", NOT_SEEN)),
    # ordinary reports, nothing wrong
    ("", facts("The lungs are clear. No pleural effusion. The heart is of normal size. No acute bony abnormality.")),
    ("", facts("There is no intracranial hemorrhage, mass effect or midline shift.", **MR)),
    ("", facts("Heart size is normal. The mediastinal contours are normal. Right-sided aortic arch.")),
    ("", facts("Right PICC with its tip in the superior vena cava. Left effusion.", EFFUSION_L)),
]  # fmt: skip


@pytest.mark.requirement("REQ-TEXT-6")
@pytest.mark.parametrize(("rule", "given"), TABLE, ids=[f"{i}-{rule or 'clean'}" for i, (rule, _) in enumerate(TABLE)])
def test_the_table_of_sentences(rule: str, given: ReportFacts) -> None:
    assert {one.rule for one in lint(given)} == ({rule} if rule else set())


@pytest.mark.requirement("REQ-TEXT-6")
def test_the_table_is_long_enough_and_half_of_it_is_innocent() -> None:
    innocent = sum(not rule for rule, _ in TABLE)
    assert len(TABLE) - innocent >= 40
    assert innocent >= 50
    assert {rule for rule, _ in TABLE if rule} == set(RULES)


def test_an_issue_points_at_its_words() -> None:
    text = "Heart normal. There is a small left pleural effusion."
    (issue,) = lint(facts(text, EFFUSION_R))
    assert (issue.section, text[issue.start : issue.end]) == ("findings", "There is a small left pleural effusion.")
    assert issue.finding_id == "f-1"
    assert "left" in issue.words
    assert "right" in issue.words


def test_the_site_chooses_what_blocks() -> None:
    given = facts("The nodule is unchanged. [ ]")
    assert [(one.rule, one.severity) for one in lint(given)] == [
        ("placeholder", Severity.BLOCKING),
        ("comparison", Severity.WARNING),
    ]
    assert {one.rule: one.severity for one in lint(given, ["comparison"])} == {
        "comparison": Severity.BLOCKING,
        "placeholder": Severity.WARNING,
    }
    assert set(BLOCKING) <= set(RULES)


def test_the_key_of_an_issue_changes_with_its_place_and_words() -> None:
    one = Issue("sex", "words", "findings", 3, 9)
    assert key_of(one) == key_of(Issue("sex", "words", "findings", 3, 9, severity=Severity.BLOCKING))
    assert len({key_of(one), key_of(Issue("sex", "words", "findings", 4, 9)), key_of(Issue("sex", "other"))}) == 3


@pytest.mark.parametrize("text", ["[" * 5000, "no " * 5000, "1." * 5000, "left right and " * 2000, "\u202eleft" * 2000])
def test_strange_text_ends_soon_and_raises_nothing(text: str) -> None:
    assert isinstance(lint(facts(text, EFFUSION_R, TUMOR, OFF)), list)
