"""What a RIS or EHR answered to a message of ours."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """The outcome of one attempt.

    Attributes:
        accepted: it has the message: AA or CA, or HTTP 2xx.
        error: why not, without text about the patient; at most 200 characters.
        said: what it acknowledged with: acknowledgement code and control id, or HTTP status.
        is_final: asking again would give the same answer (AR or CR, most of HTTP 4xx): a person has to look.
    """

    accepted: bool
    error: str = ""
    is_final: bool = False
    said: str = ""
