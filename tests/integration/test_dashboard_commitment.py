"""What nobody promised to keep is on the page of problems, with its reason and a way on."""

from datetime import timedelta
from pathlib import Path

from db import lifecycle
from db.lifecycle import commitments
from db.lifecycle.commitments import CommitmentAnswer, Patience
from db.models import Delivery, ResultObject
from db.types import CommitmentState, DeliveryState, utcnow
from db.uow import unit_of_work
from tests.dashboard_support import NODE, Site, ct_study, make_site
from tests.db_support import an_object


def test_an_alarm_is_shown_and_an_administrator_sends_again(tmp_path: Path, sqlite_url: str) -> None:
    site: Site = make_site(tmp_path, sqlite_url)
    site.drafted(ct_study(1), objects=[an_object("SEG")], destinations=["vna"])
    patience = Patience(wait_s=10, max_attempts=1)
    with unit_of_work(site.sessions, NODE) as uow:
        job = lifecycle.claim_delivery(uow, utcnow(), lease_s=60)
        assert job is not None
        lifecycle.delivered(uow, job.delivery_id)
        now = utcnow() + timedelta(minutes=1)
        order = commitments.order_commitment(uow, "vna", now, patience, at_most=10)
        assert order is not None
        failed = {site.one(ResultObject, kind="SEG").sop_instance_uid: 0x0122}
        answer = CommitmentAnswer(order.transaction_uid, frozenset(), failed)
        assert commitments.take_answer(uow, answer, {"vna"}, patience, resend_s=1) is not None
    admin = site.client("admin")
    page = admin.get("/problems").text
    section = page.partition('aria-label="Not committed"')[2].partition("</section>")[0]
    for words in ("Segmentation", "vna", "0x0122 SOP Class not supported", "Send again"):
        assert words in section
    assert admin.submit(f"/problems/deliveries/{job.delivery_id}/again").status_code == 303
    row = site.one(Delivery, id=job.delivery_id)
    assert (row.state, row.commitment) == (DeliveryState.PENDING, CommitmentState.NOT_ASKED)
    assert "0x0122" not in admin.get("/problems").text
