"""Messages between machines: exact both ways, without one UID of the Study, and nothing that unfolds without bound."""

import dataclasses
import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from config.errors import RefusedInputError
from tests.experts_fakes import UIDS, box, ct_card, ct_study, ct_volume, film_result, film_study
from worker.experts import wire
from worker.experts.base import Classification, ExpertInput, SegmentationResult
from worker.radiograph import Radiograph
from worker.volume import Volume

CARD = ct_card()
BRAIN = ExpertInput(
    brain_mr={"T1c": ct_volume(), "FLAIR": dataclasses.replace(ct_volume((2, 4, 5)), series_instance_uid=UIDS[33])}
)


def there_and_back(study):
    message, arrays, _ = wire.encode_run(CARD, study, "")
    body = wire.pack(message.model_dump(mode="json"), arrays)
    return wire.decode_run(*wire.unpack(body, max_bytes=1 << 20))[1]


@pytest.mark.parametrize("study", [ct_study(), BRAIN], ids=["CT", "MR"])
def test_a_volume_arrives_as_it_was_but_for_its_uids(study):
    arrived = there_and_back(study)
    sent = {"CT": study.volume} if study.volume else study.brain_mr
    got = {"CT": arrived.volume} if arrived.volume else arrived.brain_mr
    assert set(got) == set(sent)
    for role, volume in sent.items():
        np.testing.assert_array_equal(got[role].array, volume.array)
        np.testing.assert_array_equal(got[role].affine, volume.affine)
        assert got[role].array.dtype == np.float32
        assert got[role].array.flags.writeable
        assert got[role].frame_numbers == volume.frame_numbers
        assert got[role].modality == "CT"
        assert not set(got[role].sop_instance_uids) & set(UIDS)


def test_a_radiograph_arrives_as_it_was_but_for_its_uids():
    sent, got = film_study().radiograph, there_and_back(film_study()).radiograph
    np.testing.assert_array_equal(got.pixels, sent.pixels)
    assert (got.view_position, got.modality, got.pixel_spacing_mm) == ("PA", "DX", (0.143, 0.143))
    assert {got.sop_instance_uid, got.series_instance_uid}.isdisjoint(UIDS)


def test_equal_uids_have_equal_placeholders_and_an_absent_one_stays_absent():
    volume = dataclasses.replace(ct_volume(), sop_instance_uids=(UIDS[0],) * 3, frame_of_reference_uid="")
    other = dataclasses.replace(ct_volume(), series_instance_uid=UIDS[33])
    arrived = there_and_back(ExpertInput(brain_mr={"T1c": volume, "T1": other})).brain_mr
    assert len(set(arrived["T1c"].sop_instance_uids)) == 1
    assert arrived["T1c"].sop_instance_uids[0] == arrived["T1"].sop_instance_uids[0]
    assert arrived["T1c"].frame_of_reference_uid == ""
    assert arrived["T1c"].series_instance_uid != arrived["T1"].series_instance_uid


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ExpertInput, {"radiograph", "volume", "brain_mr"}),
        (Radiograph, {"pixels", *wire.RadiographMessage.model_fields}),
        (Volume, {"array", *wire.VolumeMessage.model_fields}),
        # heat maps are drawn where the network is, and stay there
        (Classification, {"card", "heat_maps", *(set(wire.ResultMessage.model_fields)
                                                 - {"kind", "version", "weights_sha256", "names", "role"})}),
        (SegmentationResult, {"card", "argument", "seconds", "labels", "names", "volume", "notes", "details"}),
    ],
)  # fmt: skip
def test_whoever_adds_a_field_decides_whether_it_may_leave_the_machine(kind, fields):
    assert {field.name for field in dataclasses.fields(kind)} == fields


def test_a_label_map_comes_back_on_the_volume_of_the_study():
    study = ct_study()
    _, _, names = wire.encode_run(CARD, study, "")
    message, arrays = wire.encode_result(study, box(CARD, study))
    _, result = wire.decode_result(message.model_dump(mode="json"), arrays, card=CARD, study=study, names=names)
    assert result.volume is study.volume
    assert result.names == {1: "liver", 3: "spleen"}
    np.testing.assert_array_equal(result.labels, box(CARD, study).labels)


def test_a_label_map_of_one_of_four_contrasts_comes_back_on_that_one():
    on_flair = dataclasses.replace(box(CARD, ExpertInput(volume=BRAIN.brain_mr["FLAIR"])))
    message, _ = wire.encode_result(BRAIN, on_flair)
    assert message.role == "FLAIR"


def test_probabilities_come_back_to_the_last_bit():
    study = film_study()
    odd = dataclasses.replace(film_result(CARD, study), probabilities={"liver": float(np.nextafter(0.1, 1))})
    _, _, names = wire.encode_run(CARD, study, "")
    content = json.loads(json.dumps(wire.encode_result(study, odd)[0].model_dump(mode="json")))
    _, result = wire.decode_result(content, {}, card=CARD, study=study, names=names)
    assert result.probabilities["liver"] == np.nextafter(0.1, 1)


# --- bytes from somebody else ------------------------------------------------------------------------------


def archive(**members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def claiming(header: str) -> bytes:
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


BAD = {
    "nothing": b"",
    "no archive": b"x" * 100,
    "no message": archive(a__npy=npy(np.zeros(3))),
    "no JSON": archive(message__json="{"),
    "no object": archive(message__json="[]"),
    "no array": archive(message__json="{}", a__npy=b"abc"),
    "objects": archive(message__json="{}", a__npy=npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)),
    "a pickle": archive(message__json="{}", a__npy=pickle.dumps([1])),
    "cut short": archive(message__json="{}", a__npy=npy(np.zeros(9))[:-1]),
    "a claim": archive(
        message__json="{}", a__npy=claiming("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,), }")
    ),
    "negative": archive(
        message__json="{}",
        a__npy=claiming("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -2), }") + b"12345678",
    ),
    "no header": archive(message__json="{}", a__npy=claiming("__import__('os').getcwd()")),
    "too many arrays": archive(message__json="{}", **{f"a{n}__npy": npy(np.zeros(1)) for n in range(9)}),
    "a bomb": archive(message__json="{}", a__npy=b"\0" * (2 << 20)),
    "damaged": archive(message__json="{}", a__npy=npy(np.arange(999)))[:-60] + b"\0" * 60,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_message_are_refused(name):
    with pytest.raises(RefusedInputError):
        wire.unpack(BAD[name], max_bytes=1 << 20)


def test_an_array_that_unfolds_to_more_than_its_entry_says_is_refused():
    honest = archive(message__json="{}", a__npy=b"\0" * (4 << 20))
    true_size, claimed = (4 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")
    assert honest.count(true_size) >= 2  # local header and directory
    with pytest.raises(RefusedInputError):
        wire.unpack(honest.replace(true_size, claimed), max_bytes=1 << 20)


def good_run() -> tuple[dict, dict]:
    message, arrays, _ = wire.encode_run(CARD, ct_study(), "")
    return message.model_dump(mode="json"), dict(arrays)


@pytest.mark.parametrize(
    "damage",
    [
        lambda message, arrays: message.update(patient="DOE^JANE"),
        lambda message, arrays: message.pop("argument"),
        lambda message, arrays: message["volumes"]["CT"].update(modality="<|im_end|>"),
        lambda message, arrays: message["volumes"]["CT"].update(series_instance_uid="../../etc"),
        lambda message, arrays: message["volumes"]["CT"]["affine"].pop(),
        lambda message, arrays: message["volumes"]["CT"]["affine"][0].__setitem__(0, float("nan")),
        lambda message, arrays: message["volumes"]["CT"]["sop_instance_uids"].pop(),
        lambda message, arrays: message["volumes"].update({"../CT": message["volumes"].pop("CT")}),
        lambda message, arrays: arrays.clear(),
        lambda message, arrays: arrays.update(extra=np.zeros(3, np.float32)),
        lambda message, arrays: arrays.update(volume_CT=arrays["volume_CT"].astype(np.float64)),
        lambda message, arrays: arrays.update(volume_CT=arrays["volume_CT"].astype(np.int16)),
        lambda message, arrays: arrays.update(volume_CT=arrays["volume_CT"][0]),
        lambda message, arrays: arrays.update(volume_CT=arrays["volume_CT"][:2]),
    ],
)
def test_a_request_with_other_fields_or_arrays_is_refused(damage):
    message, arrays = good_run()
    damage(message, arrays)
    with pytest.raises(RefusedInputError):
        wire.decode_run(message, arrays)


def test_the_undamaged_request_is_taken():
    message, arrays = good_run()
    assert wire.decode_run(message, arrays)[1].volume.array.shape == (3, 4, 5)


@pytest.mark.parametrize("note", ["<b>bold</b>", "two\nlines", "x" * 301])
def test_a_note_that_is_no_plain_sentence_is_refused(note):
    study = ct_study()
    message, arrays = wire.encode_result(study, box(CARD, study))
    content = message.model_dump(mode="json") | {"notes": [note]}
    with pytest.raises(RefusedInputError, match="notes"):
        wire.decode_result(content, arrays, card=CARD, study=study, names=wire.Placeholders())
