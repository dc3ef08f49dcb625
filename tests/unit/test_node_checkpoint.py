"""While somebody sends on an association, its own thread stands still."""

import sys
import threading
import time

from dicom_node.checkpoint import Checkpoint


def test_the_thread_does_nothing_between_clear_and_set() -> None:
    pausing: list[Checkpoint] = []
    sending, stopped = threading.Event(), threading.Event()
    turns, trespasses = [0], [0]

    def react() -> None:
        while not stopped.is_set():
            pausing[0].wait()
            turns[0] += 1
            trespasses[0] += sending.is_set()

    thread = threading.Thread(target=react, daemon=True)
    pausing.append(Checkpoint(thread))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        for number in range(2000):
            pausing[0].clear()
            sending.set()
            if number % 100 == 0:
                time.sleep(0.001)
            sending.clear()
            pausing[0].set()
        before = turns[0]
        deadline = time.monotonic() + 5
        while turns[0] == before and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        sys.setswitchinterval(interval)
        stopped.set()
        pausing[0].set()
        thread.join(5)
    assert trespasses[0] == 0
    assert turns[0] > before, "it goes on afterwards"


def test_a_thread_that_has_ended_is_not_waited_for() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    checkpoint = Checkpoint(thread)
    checkpoint.clear()
    checkpoint.set()
    checkpoint.wait()
    assert not thread.is_alive()
