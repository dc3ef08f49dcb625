"""The Data Set of one C-STORE, from the network buffer straight into its file."""

from dicom_node.context import NodeContext
from instances import storing
from instances.arrival import Announced, Arrival


class IncomingInstance:
    """What a C-STORE-RQ announced, while it comes in. Nothing is raised: what failed is told by :meth:`finish`.

    After a failure the rest of the Data Set is read and dropped, because the answer comes after it.
    """

    def __init__(self, context: NodeContext, announced: Announced) -> None:
        self._inbox = context.inbox
        self._announced = announced
        self._arrival: Arrival | None = None
        self._failed: Exception | None = None
        try:
            self._arrival = self._inbox.open(announced)
        except Exception as exc:  # noqa: BLE001 the process edge: whatever it is, the peer gets an answer
            self._failed = exc

    def write(self, piece: memoryview) -> None:
        """Take the next bytes."""
        if self._arrival is None or self._failed:
            return
        try:
            self._arrival.write(piece)
        except Exception as exc:  # noqa: BLE001 as above
            self._failed = exc
            self._arrival.close()  # what is refused takes no space

    def finish(self, abstract_syntax: str) -> tuple[storing.Answer, int]:
        """Return the answer, and the bytes that were stored; a failure is recorded as in :mod:`storing`."""
        if self._failed:
            return storing.refuse(self._inbox, self._announced, None, self._failed), 0
        assert self._arrival is not None
        answer = storing.keep(self._inbox, self._arrival, abstract_syntax=abstract_syntax)
        return answer, self._arrival.size if answer[0] == storing.SUCCESS else 0

    def close(self) -> None:
        """Remove the temporary file, if it was not kept."""
        if self._arrival is not None:
            self._arrival.close()
