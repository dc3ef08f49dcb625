"""What the HL7 tests share: one report with every part filled, and a destination for it."""

from datetime import datetime, timedelta, timezone
from typing import Any

from config.destination import Destination
from config.exchange_settings import Hl7Settings
from reports.document import (
    Code,
    OrderFacts,
    PatientFacts,
    ReportDocument,
    SignatureFacts,
    StudyFacts,
)
from reports.values import AlgorithmIdentity, Section, Signer

WRITTEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone(timedelta(hours=1)))
HL7 = Hl7Settings(application="FIRSTREAD", facility="RAD", authority="HOSP&1.2.3.4&ISO")
MODEL = AlgorithmIdentity("Rad-VLM", "1.2", "Maker", "ab" * 32)
RIS = Destination(name="ris", protocol="mllp", host="127.0.0.1", port=2575, application="RIS", facility="HOSP")


def signer(name: str = "Ada Meyer", staff_id: str = "S-1", **changes: Any) -> Signer:
    """A person who signs."""
    given, family = name.split(" ", 1)
    facts = {"printed_name": name, "family": family, "given": given, "organization": "Hospital", "signed_at": WRITTEN}
    return Signer(staff_id=staff_id, **(facts | changes))


def signed(state: str = "final", one: Signer | None = None) -> SignatureFacts:
    """One signature."""
    return SignatureFacts(one or signer(), state, "authorship")  # type: ignore[arg-type]


def document(state: str = "draft", **changes: Any) -> ReportDocument:
    """A report with every part filled."""
    facts: dict[str, Any] = {
        "uid": "2.25.1",
        "report_uid": "2.25.2",
        "written_at": WRITTEN,
        "patient": PatientFacts("P-1", "HOSP", "Müller^Jörg^Ü^Dr.^jr.", "19700102", "M"),
        "study": StudyFacts("1.2.3", "20260304", "050000.25", "+0100", "CT Thorax", "Haus^Greg"),
        "order": OrderFacts(
            accession_number="A-1",
            placer_order_number="PL-1",
            filler_order_number="FI-1",
            procedure=Code("24627-2", "LN", "CT Chest"),
            indication="Cough | fever",
            priority="STAT",
            ordering_provider="Order^Olga",
            ordering_provider_id="O-1",
            visit_number="V-1",
            patient_class="I",
            patient_location="WARD 3",
        ),
        "sections": [Section("findings", "Line one.\nLine two."), Section("impression", "Nodule.")],
        "algorithms": (MODEL,),
    }
    if state != "draft":
        facts["signatures"] = (signed("preliminary" if state == "preliminary" else "final"),)
    return ReportDocument(state=state, **(facts | changes))  # type: ignore[arg-type]


def line(name: str, **fields: str) -> str:
    """One segment as a RIS writes it: ``line("OBR", f4="CT^CT Chest", f18="A-1")``; MSH-1 is its separator."""
    numbers = {int(key[1:]): value for key, value in fields.items()}
    return "|".join([name, *(numbers.get(position, "") for position in range(1, max(numbers) + 1))])


def msh(kind: str, control_id: str = "M1", charset: str = "UNICODE UTF-8") -> str:
    """A header from RIS|HOSP."""
    return f"MSH|^~\\&|RIS|HOSP|FIRSTREAD||20260304||{kind}|{control_id}|P|2.5.1||||||{charset}"


def sent(*lines: str, codec: str = "utf-8") -> bytes:
    """A message of these segments."""
    return "".join(f"{one}\r" for one in lines).encode(codec)
