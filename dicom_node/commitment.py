"""Storage commitment in both directions (PS3.4 Annex J): what a node answers, and what it does by itself."""

from dicom_node.commitment_scp import on_action, report_due
from dicom_node.commitment_scu import ask_due, on_event_report

__all__ = ["ask_due", "on_action", "on_event_report", "report_due"]
