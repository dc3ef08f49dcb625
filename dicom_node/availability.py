"""Instance Availability Notification as SCP (PS3.4 Annex R)."""

from typing import Any

from pynetdicom.events import Event

from dicom_node.context import NodeContext

_PROCESSING_FAILURE = 0x0110


def on_create(event: Event, context: NodeContext) -> tuple[int, Any]:
    """Answer N-CREATE: an archive says which Instances of a Study it can give."""
    del event, context
    return _PROCESSING_FAILURE, None
