"""Triggers: one closed grammar, read from model output only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import TriggerSyntaxError
from tests.unit.test_vlm_prompts import card
from worker.experts.vista3d_labels import prompts_for
from worker.vlm.triggers import Trigger, parse_triggers

VISTA = card("VISTA3D", arguments=("everything", "hepatic tumor", "organs"))
OFFERED = (card("CXR", modality="CXR"), VISTA, card("BRATS", modality="MRI"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("No trigger here, nodule <5 mm and > 3 mm.", ()),
        ("This looks like an chest x-ray. Let me first trigger <CXR()>.", (Trigger("CXR", "", False),)),
        ("Let me trigger <VISTA3D(hepatic tumor)>. ", (Trigger("VISTA3D", "hepatic tumor", False),)),
        ("<VISTA3D()>", (Trigger("VISTA3D", "everything", False),)),
        ("I outlined the organs using <VISTA3D(organs)>.", (Trigger("VISTA3D", "organs", True),)),
        ("I segmented any brain tumors using <BRATS()>.", (Trigger("BRATS", "", True),)),
        (
            "Let me trigger <VISTA3D(organs)> and <BRATS()> and <BRATS()>",
            (Trigger("VISTA3D", "organs", False), Trigger("BRATS", "", False)),
        ),
    ],
)
def test_triggers_are_read(text, found):
    assert parse_triggers(text, OFFERED) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<NOT_CXR()>", "NOT_CXR"),
        ("<VISTA2D()>", "VISTA2D"),
        ("<cxr()>", "cxr"),
        ("<CXR(args)>", "args"),
        ("<VISTA3D(hepatoma)>", "hepatoma"),
        ("<VISTA3D(organs )>", "organs "),
        ("<CXR>", "no trigger"),
        ("<CXR()", "no trigger"),
        ("<CXR(<BRATS()>)>", "no trigger"),
        ("<image>", "no trigger"),
        ("<BRATS()> then <VISTA3D(brain)>", "brain"),
    ],
)
def test_what_is_malformed_or_not_offered_is_an_error(text, reason):
    with pytest.raises(TriggerSyntaxError, match=reason):
        parse_triggers(text, OFFERED)


def test_hepatoma_is_a_second_name_where_the_published_label_groups_are_in_use():
    groups = card("VISTA3D", arguments=("everything", "hepatic tumor"), code_family="vista3d")
    assert parse_triggers("<VISTA3D(hepatoma)> <VISTA3D(hepatic tumor)>", (groups,)) == (
        Trigger("VISTA3D", "hepatic tumor", False),
    )
    assert prompts_for("hepatoma") == prompts_for("hepatic tumor")
    without = card("VISTA3D", arguments=("everything",), code_family="vista3d")
    with pytest.raises(TriggerSyntaxError, match="hepatoma"):
        parse_triggers("<VISTA3D(hepatoma)>", (without,))


def test_an_expert_that_is_not_offered_now_cannot_be_called():
    with pytest.raises(TriggerSyntaxError, match="not offered"):
        parse_triggers("<BRATS()>", (VISTA,))


def test_no_expert_offered_is_said():
    with pytest.raises(TriggerSyntaxError, match="none"):
        parse_triggers("<BRATS()>", ())


@pytest.mark.requirement("REQ-TEXT-9")
@given(st.text(max_size=200))
def test_any_text_gives_offered_triggers_or_a_typed_error(text):
    try:
        found = parse_triggers(text, OFFERED)
    except TriggerSyntaxError:
        return
    names = {offered.name: offered.arguments or ("",) for offered in OFFERED}
    assert all(trigger.argument in names[trigger.expert] for trigger in found)
