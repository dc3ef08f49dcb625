"""Modality Performed Procedure Step as SCP (PS3.4 Annex F): how many Instances a Study will have."""

from typing import Any

from pynetdicom.events import Event

from dicom_node.context import NodeContext

_PROCESSING_FAILURE = 0x0110


def on_create(event: Event, context: NodeContext) -> tuple[int, Any]:
    """Answer N-CREATE: a modality began."""
    del event, context
    return _PROCESSING_FAILURE, None


def on_set(event: Event, context: NodeContext) -> tuple[int, Any]:
    """Answer N-SET: a modality goes on, has finished or gave up."""
    del event, context
    return _PROCESSING_FAILURE, None
