"""Orders from messages: ORM^O01 and OMI^O23 into :class:`db.lifecycle.orders.NewOrder`, one per procedure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from db.lifecycle.orders import NewOrder
from db.types import Priority
from reports.hl7_encoding import plain
from ris.inbound import MISSING_FIELD, NOT_IN_TABLE, RefusedMessageError, Segment
from ris.patients import identity, name_part

Action = Literal["new", "change", "cancel"]

# HL7 table 0119. SN asks for a number, which is ours to give elsewhere; it announces the order all the same
_ACTIONS: Mapping[str, Action] = {
    "NW": "new",
    "SN": "new",
    "XO": "change",
    "XX": "change",
    "SC": "change",
    "CA": "cancel",
    "OC": "cancel",
    "DC": "cancel",
}
# table 0485, and what others write
_PRIORITIES = {"S": Priority.STAT, "STAT": Priority.STAT, "A": Priority.URGENT, "ASAP": Priority.URGENT,
               "U": Priority.URGENT, "URGENT": Priority.URGENT, "R": Priority.ROUTINE,
               "ROUTINE": Priority.ROUTINE}  # fmt: skip


@dataclass
class _Group:
    """The segments of one order: its ORC, one OBR, and what follows them."""

    orc: Segment
    obr: Segment | None = None
    rest: list[Segment] = field(default_factory=list)

    def all(self, name: str) -> list[Segment]:
        return [segment for segment in self.rest if segment.name == name]

    def first(self, name: str, position: int) -> str:
        return next((said for segment in self.all(name) if (said := segment.text(position))), "")


def read_orders(segments: Sequence[Segment], sender: str) -> list[tuple[NewOrder, Action]]:
    """Return each order of a message and what is to become of it.

    Raises:
        RefusedMessageError: an order without a number or an order control code that says something else; no order.
    """
    patient = next((one for one in segments if one.name == "PID"), None)
    visit = next((one for one in segments if one.name == "PV1"), None)
    groups = list(_groups(segments))
    if not groups:
        raise RefusedMessageError(MISSING_FIELD, "it holds no order (ORC)")
    uids = {uid for group in groups if (uid := _study_uid(group))}
    shared = uids.pop() if len(uids) == 1 else ""  # ZDS stands once, after the last order of a Study
    orders = [_order(group, patient, visit, sender) for group in groups]
    return [
        (replace(order, study_instance_uid=order.study_instance_uid or shared), _action(group))
        for order, group in zip(orders, groups, strict=True)
    ]


def _groups(segments: Sequence[Segment]) -> Iterator[_Group]:
    """Split at each ORC, and at each OBR after the first under one ORC, which has the ORC's timing too."""
    group: _Group | None = None
    for segment in segments:
        if segment.name == "ORC":
            if group is not None:
                yield group
            group = _Group(segment)
        elif group is None:
            continue
        elif segment.name == "OBR" and group.obr is not None:
            yield group
            group = _Group(group.orc, segment, group.all("TQ1"))
        elif segment.name == "OBR":
            group.obr = segment
        else:
            group.rest.append(segment)
    if group is not None:
        yield group


def _action(group: _Group) -> Action:
    action = _ACTIONS.get(group.orc.text(1).upper())
    if action is None:
        raise RefusedMessageError(NOT_IN_TABLE, "its order control code (ORC-1) is not supported")
    return action


def _order(group: _Group, patient: Segment | None, visit: Segment | None, sender: str) -> NewOrder:
    orc, obr = group.orc, group.obr
    placer = orc.text(2) or (obr.text(2) if obr else "")
    filler = orc.text(3) or (obr.text(3) if obr else "")
    accession = (obr.text(18) if obr else "") or group.first("IPC", 1) or filler
    if not (placer or accession):
        raise RefusedMessageError(MISSING_FIELD, "an order has no number: ORC-2, ORC-3, OBR-18 and IPC-1 are empty")
    who = identity(patient) if patient else None
    provider, provider_id = _provider(group)
    return NewOrder(
        sender=sender,
        placer_order_number=plain(placer)[:200],
        filler_order_number=plain(filler)[:200],
        accession_number=plain(accession)[:64],
        study_instance_uid=_study_uid(group),
        patient_id=who.patient_id if who else "",
        issuer_of_patient_id=who.issuer_of_patient_id if who else "",
        patient_name=who.patient_name if who else "",
        patient_birth_date=who.patient_birth_date if who else "",
        patient_sex=who.patient_sex if who else "",
        procedure_code=plain(obr.text(4))[:64] if obr else "",
        procedure_text=plain(obr.text(4, 2))[:200] if obr else "",
        procedure_scheme=plain(obr.text(4, 3))[:64] if obr else "",
        indication=_indication(group),
        priority=_priority(group),
        ordering_provider=provider,
        ordering_provider_id=provider_id,
        visit_number=plain(visit.text(19))[:64] if visit else "",
        patient_class=plain(visit.text(2))[:16] if visit else "",
        patient_location=_location(visit) if visit else "",
    )


def _study_uid(group: _Group) -> str:
    return plain(group.first("ZDS", 1) or group.first("IPC", 3))[:64]


def _provider(group: _Group) -> tuple[str, str]:
    """Return the ordering provider as PN and identifier, from OBR-16 or ORC-12."""
    places = [(group.obr, 16)] if group.obr else []
    for segment, position in [*places, (group.orc, 12)]:
        if segment.components(position) and any(segment.components(position)):
            family = segment.text(position, 2, 1)
            parts = [family, *(segment.text(position, component) for component in (3, 4, 6, 5))]
            name = "^".join(name_part(part) for part in parts).rstrip("^")
            return name[:324], plain(segment.text(position))[:64]
    return "", ""


def _indication(group: _Group) -> str:
    """Return why it was asked for: Reason for Study (OBR-31), Relevant Clinical Information (OBR-13), or the notes."""
    obr = group.obr
    if obr is not None:
        reasons = [
            obr.text(31, 2, repetition=number) or obr.text(31, repetition=number)
            for number in range(1, obr.repetitions(31) + 1)
        ]
        said = "\n".join(reason for reason in reasons if reason) or obr.whole(13)
        if said:
            return said
    return "\n".join(note for one in group.all("NTE") if (note := one.whole(3)))


def _priority(group: _Group) -> Priority | None:
    """Return the priority in TQ1-9, else ORC-7.6, else OBR-27.6, else OBR-5; None when none says one."""
    said = [group.first("TQ1", 9), group.orc.text(7, 6)]
    if group.obr is not None:
        said += [group.obr.text(27, 6), group.obr.text(5)]
    return next((_PRIORITIES[one.upper()] for one in said if one.upper() in _PRIORITIES), None)


def _location(visit: Segment) -> str:
    """Return PV1-3 as words: point of care, room, bed, facility."""
    parts = [visit.text(3, component) for component in range(1, 5)]
    return plain(" ".join(part for part in parts if part))[:200]
