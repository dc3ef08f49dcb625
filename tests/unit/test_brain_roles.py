"""MR roles: what the scanner wrote decides, a name that contradicts it is doubt, doubt is no draft."""

import re

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from config.errors import OutsideIntendedUseError
from worker.mr_roles import assign_roles, claim_of
from worker.mr_sequences import mr_sequence

AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]


def header(number=1, **values):
    ds = Dataset()
    defaults = {"Modality": "MR", "SeriesNumber": number, "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
                "MRAcquisitionType": "2D", "ImageOrientationPatient": AXIAL}  # fmt: skip
    for keyword, value in {**defaults, **values}.items():
        setattr(ds, keyword, value)
    return ds


SE_T1 = {"ScanningSequence": "SE", "EchoTime": 12, "RepetitionTime": 550, "SequenceName": "*se2d1"}
TSE_T2 = {"ScanningSequence": "SE", "EchoTime": 96, "RepetitionTime": 4500, "SequenceName": "*tse2d1_15"}
TIR = {"ScanningSequence": ["SE", "IR"], "EchoTime": 110, "RepetitionTime": 9000, "InversionTime": 2500,
       "SequenceName": "*tir2d1_21"}  # fmt: skip
MPRAGE = {"ScanningSequence": ["GR", "IR"], "EchoTime": 2.98, "RepetitionTime": 2300, "InversionTime": 900,
          "MRAcquisitionType": "3D", "SequenceName": "*tfl3d1_16ns"}  # fmt: skip
AGENT = {"ContrastBolusAgent": "Gadobutrol"}


def claim(**values):
    return claim_of(mr_sequence([header(**values)]))


def item(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return Sequence([ds])


def enhanced(*, contrast="UNKNOWN", echo=None, agent=None, **timing):
    """One enhanced MR object of 30 frames."""
    shared = Dataset()
    modifier = {"InversionRecovery": "YES" if "InversionTimes" in timing else "NO"}
    if "InversionTimes" in timing:
        modifier["InversionTimes"] = timing.pop("InversionTimes")
    shared.MRModifierSequence = item(**modifier)
    shared.MRTimingAndRelatedParametersSequence = item(**timing)
    shared.MRImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"], AcquisitionContrast=contrast)
    if agent:
        shared.ContrastBolusUsageSequence = item(ContrastBolusAgentAdministered=agent)
    frame = Dataset()
    if echo:
        frame.MREchoSequence = item(EffectiveEchoTime=echo)
    return header(
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence([frame] * 30),
        NumberOfFrames=30,
        EchoPulseSequence="SPIN",
    )


@pytest.mark.requirement("REQ-GATE-4")
@pytest.mark.parametrize(
    ("values", "role"),
    [
        (SE_T1, "T1"),
        (SE_T1 | AGENT, "T1c"),
        (SE_T1 | {"ContrastBolusAgent": "NONE"}, "T1"),
        (SE_T1 | {"ContrastBolusVolume": 7.5}, "T1c"),
        (SE_T1 | {"ContrastBolusStartTime": "101500"}, "T1c"),
        (SE_T1 | {"ContrastBolusAgentSequence": item(CodeValue="708091001")}, "T1c"),
        (TSE_T2, "T2"),
        (TSE_T2 | AGENT, "T2"),
        (TIR, "FLAIR"),
        (TIR | AGENT, "FLAIR"),
        (MPRAGE, "T1"),
        (MPRAGE | AGENT, "T1c"),
        # GE BRAVO: no inversion time, milliseconds of TR
        ({"ScanningSequence": "GR", "EchoTime": 3.2, "RepetitionTime": 8.2, "PulseSequenceName": "BRAVO"}, "T1"),
        # GE T1 FLAIR: inversion for T1, not for fluid
        ({"ScanningSequence": ["SE", "IR"], "EchoTime": 24, "RepetitionTime": 2500, "InversionTime": 860,
          "SeriesDescription": "Ax T1 FLAIR"}, "T1"),
        # SPACE and CUBE FLAIR: echo times that no 2D sequence has
        ({"ScanningSequence": ["SE", "IR"], "EchoTime": 394, "RepetitionTime": 6000, "InversionTime": 2200,
          "MRAcquisitionType": "3D", "SequenceName": "*spcir_278ns"}, "FLAIR"),
        ({"ScanningSequence": "SE", "EchoTime": 120, "RepetitionTime": 3000, "PulseSequenceName": "CUBE",
          "MRAcquisitionType": "3D", "SeriesDescription": "Sag T2 Cube"}, "T2"),
        ({"ScanningSequence": "GR", "EchoTime": 2.4, "RepetitionTime": 5.1, "SequenceName": "*vibe3d"} | AGENT, "T1c"),
        # images a PACS wrote again
        (SE_T1 | {"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, "T1"),
        (SE_T1 | {"SeriesDescription": "T1 SE posterior fossa"}, "T1"),
    ],
)  # fmt: skip
def test_the_role_is_read_from_the_acquisition(values, role):
    assert claim(**values).role == role


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (TSE_T2 | {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "diffusion"),
        (TSE_T2 | {"ScanningSequence": ["SE", "EP"]}, "echo-planar"),
        (TSE_T2 | {"SequenceName": "*ep2d_b0"}, "echo-planar"),
        (TSE_T2 | {"DiffusionBValue": 1000.0}, "diffusion"),
        (SE_T1 | AGENT | {"ImageType": ["DERIVED", "SECONDARY", "SUBTRACTION"]}, "subtraction"),
        (SE_T1 | {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "projection"),
        (SE_T1 | {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase"),
        (SE_T1 | AGENT | {"NumberOfTemporalPositions": 40}, "40 time points"),
        (SE_T1 | {"BodyPartExamined": "CSPINE"}, "body part CSPINE"),
        (SE_T1 | {"SeriesDescription": "3-plane localizer"}, "called localizer"),
        ({"ScanningSequence": "GR", "EchoTime": 20, "RepetitionTime": 28, "SequenceName": "*swi3d1r"}, "susceptib"),
        ({"ScanningSequence": "GR", "EchoTime": 25, "RepetitionTime": 600}, "T2\\*"),
        ({"ScanningSequence": "GR", "EchoTime": 3.6, "RepetitionTime": 22, "SequenceName": "*fi3d_tof"}, "angiogram"),
        ({"ScanningSequence": "SE", "EchoTime": 12, "RepetitionTime": 4000}, "proton density"),
        ({"ScanningSequence": ["SE", "IR"], "EchoTime": 60, "RepetitionTime": 5000, "InversionTime": 160}, "STIR"),
        ({"ScanningSequence": "SE", "EchoTime": 45, "RepetitionTime": 1500}, "neither T1 nor T2 at TE 45 ms"),
        ({}, "name no contrast"),
    ],
)
def test_what_is_no_anatomical_contrast_plays_no_role(values, reason):
    got = claim(**values)
    assert got.role == ""
    assert re.search(reason, got.reason)


@pytest.mark.requirement("REQ-GATE-4")
@pytest.mark.parametrize(
    ("values", "roles", "reason"),
    [
        (SE_T1 | {"SeriesDescription": "AX T2"}, {"T1", "T1c", "T2"}, "called T2 but was acquired as T1"),
        (TSE_T2 | {"SeriesDescription": "AX FLAIR"}, {"FLAIR", "T2"}, "called FLAIR but was acquired as T2"),
        (SE_T1 | AGENT | {"SeriesDescription": "AX T1 PRE"}, {"T1", "T1c"}, "called without contrast agent"),
        (SE_T1 | {"ContrastBolusAgent": "none", "SeriesDescription": "T1 POST GAD"}, {"T1", "T1c"}, "that none was"),
        (SE_T1 | {"ContrastBolusAgent": "none", "ContrastBolusVolume": 10}, {"T1", "T1c"}, "both"),
        ({"SeriesDescription": "anat-T1w"}, {"T1", "T1c"}, "no echo or repetition time supports that"),
        (SE_T1 | {"SequenceName": "*tir2d1_21"}, set(), "contradict each other"),
    ],
)
def test_attributes_and_name_that_disagree_are_doubt(values, roles, reason):
    got = claim(**values)
    assert got.role == ""
    assert got.roles == roles
    assert reason in got.reason


def test_an_agent_known_only_from_the_name_is_said():
    got = claim(**SE_T1, SeriesDescription="T1 AX POST GAD")
    assert got.role == "T1c"
    assert "only from the name" in got.note


@pytest.mark.parametrize(
    ("one", "role"),
    [
        (enhanced(contrast="T1", echo=3.1), "T1"),
        (enhanced(contrast="T1", echo=3.1, agent="YES"), "T1c"),
        (enhanced(echo=11.0, RepetitionTime=600.0, agent="NO"), "T1"),
        (enhanced(contrast="FLUID_ATTENUATED", echo=300.0, RepetitionTime=4800.0, InversionTimes=1650.0), "FLAIR"),
        (enhanced(echo=300.0, RepetitionTime=4800.0, InversionTimes=[1650.0]), "FLAIR"),
        (enhanced(contrast="T2", echo=90.0, RepetitionTime=4000.0), "T2"),
        (enhanced(contrast="PERFUSION", echo=30.0, RepetitionTime=1500.0), ""),
        (enhanced(contrast="T1", echo=90.0, RepetitionTime=4000.0), ""),
        (enhanced(), ""),
    ],
)
def test_enhanced_mr_is_read_from_its_functional_groups(one, role):
    sequence = mr_sequence([one])
    assert sequence.slices == 30
    assert claim_of(sequence).role == role


def test_two_echoes_in_one_series_are_no_single_contrast():
    both = [header(**TSE_T2), header(**(TSE_T2 | {"EchoTime": 20}))]
    assert claim_of(mr_sequence(both)).reason == "images of several echo times"


@pytest.mark.parametrize(
    ("keyword", "written", "seen"),
    [
        ("EchoTime", b"abc ", "series 1 (TR 550 ms, 2D axial, 1 slice)"),
        ("EchoTime", b"nan ", "series 1 (TR 550 ms, 2D axial, 1 slice)"),
        ("InversionTime", b"", "series 1 (TE 12 ms, TR 550 ms, 2D axial, 1 slice)"),
        ("SeriesNumber", b"Muster", "series without number (TE 12 ms, TR 550 ms, 2D axial, 1 slice)"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_numbers_that_are_none_are_nothing(keyword, written, seen):
    ds = header(**SE_T1)
    vr = "IS" if keyword == "SeriesNumber" else "DS"
    ds._dict[Tag(keyword)] = RawDataElement(Tag(keyword), vr, len(written), written, 0, False, True)
    assert str(mr_sequence([ds])) == seen


def study(**changes):
    """Four Series of 24 slices; a change of None removes one, a tuple (slices, attributes) adds or replaces one."""
    protocol = {
        "t1": (24, SE_T1 | {"SeriesNumber": 5}), "t1c": (24, SE_T1 | AGENT | {"SeriesNumber": 9}),
        "t2": (24, TSE_T2 | {"SeriesNumber": 3}), "flair": (24, TIR | {"SeriesNumber": 4}),
    }  # fmt: skip
    chosen = {**protocol, **changes}
    return {uid: [header(**value[1])] * value[0] for uid, value in chosen.items() if value}


def test_the_four_sequences_of_a_study_are_found():
    got = assign_roles(study())
    assert got.chosen == {"T1c": "t1c", "T1": "t1", "T2": "t2", "FLAIR": "flair"}
    assert got.excluded == []
    assert got.unchecked == []


@pytest.mark.parametrize(
    ("other", "role", "chosen", "why"),
    [
        ((160, MPRAGE | AGENT), "T1c", "other", "is 3D"),
        ((40, SE_T1 | AGENT), "T1c", "other", "has more slices"),
        ((24, TSE_T2 | {"ImageOrientationPatient": CORONAL}), "T2", "t2", "is axial"),
        ((300, MPRAGE | AGENT | {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}), "T1c", "t1c", "is original"),
    ],
)
def test_of_two_series_of_one_role_the_clearly_better_is_read(other, role, chosen, why):
    got = assign_roles(study(other=(other[0], other[1] | {"SeriesNumber": 20})))
    assert got.chosen[role] == chosen
    assert len(got.excluded) == 1
    assert f"is {role} too" in got.excluded[0][1]
    assert why in got.excluded[0][1]


def test_two_equal_series_of_one_role_are_refused_by_number_without_their_names():
    other = (24, TSE_T2 | {"SeriesNumber": 20, "SeriesDescription": "T2 Meier repeat", "RepetitionTime": 4510})
    with pytest.raises(OutsideIntendedUseError) as refused:
        assign_roles(study(other=other))
    assert str(refused.value) == (
        "more than one series could be T2: series 3 (TE 96 ms, TR 4500 ms, 2D axial, 24 slices)"
        " and series 20 (TE 96 ms, TR 4510 ms, 2D axial, 24 slices)"
    ) or "series 20 (TE 96 ms, TR 4510 ms, 2D axial, 24 slices) and series 3" in str(refused.value)
    assert "Meier" not in str(refused.value)


@pytest.mark.requirement("REQ-GATE-4")
@pytest.mark.parametrize(("gone", "role"), [("t1", "T1"), ("t1c", "T1c"), ("t2", "T2"), ("flair", "FLAIR")])
def test_a_missing_sequence_is_named(gone, role):
    with pytest.raises(OutsideIntendedUseError, match=f"^missing MR sequence: {role}(;|$)"):
        assign_roles(study(**{gone: None}))


def test_a_missing_role_names_the_series_that_was_in_doubt():
    doubtful = (24, SE_T1 | AGENT | {"SeriesNumber": 7, "SeriesDescription": "T1 PRE"})
    with pytest.raises(
        OutsideIntendedUseError, match=r"missing MR sequence: T1c; .*series 7 .* could be T1c or T1: it is"
    ):
        assign_roles(study(t1c=doubtful))


def test_a_doubtful_series_is_set_aside_when_others_are_certain():
    got = assign_roles(study(other=(24, SE_T1 | {"SeriesNumber": 7, "SeriesDescription": "AX T2"})))
    assert got.chosen["T2"] == "t2"
    assert [uid for uid, _ in got.excluded] == ["other"]
    assert "could be T1c or T1 or T2" in got.excluded[0][1]


def test_a_t1_without_a_word_on_contrast_after_the_injection_is_no_plain_t1():
    when = {"AcquisitionDate": "20261101"}
    before, during, after = ({**when, "AcquisitionTime": t} for t in ("101000", "103000", "104500.25"))
    t1c = (24, SE_T1 | AGENT | during | {"SeriesNumber": 9})
    assert assign_roles(study(t1c=t1c, t1=(24, SE_T1 | before))).chosen["T1"] == "t1"
    with pytest.raises(OutsideIntendedUseError, match=r"missing MR sequence: T1; .* acquired after one"):
        assign_roles(study(t1c=t1c, t1=(24, SE_T1 | after)))
    told = SE_T1 | after | {"ContrastBolusAgent": "none"}
    assert assign_roles(study(t1c=t1c, t1=(24, told))).chosen["T1"] == "t1"
