"""The allowed moves, as data. Whatever is not listed is refused; each move writes the AuditEvent beside it."""

from collections.abc import Mapping

from db.asking_models import ErrandState as Q
from db.audit import AuditTag
from db.commitment_models import RequestState as C
from db.critical_models import AlertState as A
from db.critical_models import NoticeState as N
from db.prior_models import PriorState as E
from db.prior_models import SearchState as S
from db.signing_models import HoldState as H
from db.types import DeliveryState as D
from db.types import ExpectationState as X
from db.types import PackageState as M
from db.types import ReadingState as R
from db.types import ReportState as P
from db.workitem_models import StepState as W

READING_MOVES: Mapping[tuple[R, R], AuditTag] = {
    (R.RECEIVING, R.COMPLETE): AuditTag.READING_COMPLETE,
    (R.COMPLETE, R.QUEUED): AuditTag.READING_QUEUED,
    (R.COMPLETE, R.IGNORED): AuditTag.READING_IGNORED,
    (R.COMPLETE, R.HELD): AuditTag.READING_HELD,
    (R.QUEUED, R.RUNNING): AuditTag.READING_STARTED,
    (R.RETRYING, R.RUNNING): AuditTag.READING_STARTED,
    (R.RUNNING, R.DRAFTED): AuditTag.READING_DRAFTED,
    (R.RUNNING, R.NO_DRAFT): AuditTag.READING_NO_DRAFT,
    (R.RUNNING, R.RETRYING): AuditTag.READING_RETRYING,
    (R.RUNNING, R.FAILED): AuditTag.READING_FAILED,
    # the lease ran out, or the delay did
    (R.RUNNING, R.QUEUED): AuditTag.READING_REQUEUED,
    (R.RETRYING, R.QUEUED): AuditTag.READING_REQUEUED,
    # late images arrived before anybody took it, or the report was signed without AI
    (R.QUEUED, R.NO_DRAFT): AuditTag.READING_CANCELLED,
    (R.RETRYING, R.NO_DRAFT): AuditTag.READING_CANCELLED,
    # a person holds it
    (R.QUEUED, R.HELD): AuditTag.READING_HELD,
    (R.RETRYING, R.HELD): AuditTag.READING_HELD,
    (R.RUNNING, R.HELD): AuditTag.READING_HELD,
    # a person asks for another run
    (R.HELD, R.QUEUED): AuditTag.READING_PROCESS_AGAIN,
    (R.IGNORED, R.QUEUED): AuditTag.READING_PROCESS_AGAIN,
    (R.FAILED, R.QUEUED): AuditTag.READING_PROCESS_AGAIN,
    (R.NO_DRAFT, R.QUEUED): AuditTag.READING_PROCESS_AGAIN,
}

REPORT_MOVES: Mapping[tuple[P, P], AuditTag] = {
    (P.UNREAD, P.DRAFTED): AuditTag.REPORT_DRAFTED,
    # nobody waits for the AI
    (P.UNREAD, P.IN_REVIEW): AuditTag.REPORT_OPENED,
    (P.DRAFTED, P.IN_REVIEW): AuditTag.REPORT_OPENED,
    (P.PRELIMINARY, P.IN_REVIEW): AuditTag.REPORT_OPENED,
    (P.REJECTED, P.IN_REVIEW): AuditTag.REPORT_OPENED,
    (P.IN_REVIEW, P.PRELIMINARY): AuditTag.REPORT_SIGNED_PRELIMINARY,
    (P.IN_REVIEW, P.FINAL): AuditTag.REPORT_SIGNED_FINAL,
    (P.PRELIMINARY, P.FINAL): AuditTag.REPORT_SIGNED_FINAL,
    (P.IN_REVIEW, P.REJECTED): AuditTag.REPORT_REJECTED,
    (P.FINAL, P.ADDENDED): AuditTag.REPORT_ADDENDED,
    (P.FINAL, P.CORRECTED): AuditTag.REPORT_CORRECTED,
    (P.ADDENDED, P.ADDENDED): AuditTag.REPORT_ADDENDED,
    (P.ADDENDED, P.CORRECTED): AuditTag.REPORT_CORRECTED,
    (P.CORRECTED, P.ADDENDED): AuditTag.REPORT_ADDENDED,
    (P.CORRECTED, P.CORRECTED): AuditTag.REPORT_CORRECTED,
    # late images: an unsigned draft speaks of fewer images than there are; or a reader without AI puts it back
    (P.DRAFTED, P.UNREAD): AuditTag.REPORT_INVALIDATED,
    (P.IN_REVIEW, P.UNREAD): AuditTag.REPORT_INVALIDATED,
    (P.REJECTED, P.UNREAD): AuditTag.REPORT_INVALIDATED,
}

DELIVERY_MOVES: Mapping[tuple[D, D], AuditTag] = {
    (D.PENDING, D.SENDING): AuditTag.DELIVERY_STARTED,
    (D.SENDING, D.DELIVERED): AuditTag.DELIVERY_DELIVERED,
    (D.SENDING, D.PENDING): AuditTag.DELIVERY_POSTPONED,
    (D.SENDING, D.FAILED): AuditTag.DELIVERY_FAILED,
    (D.SENDING, D.WITHDRAWN): AuditTag.DELIVERY_WITHDRAWN,
    (D.PENDING, D.WITHDRAWN): AuditTag.DELIVERY_WITHDRAWN,
    (D.FAILED, D.PENDING): AuditTag.DELIVERY_RESUBMITTED,
    # a person stops what was just signed, and goes on with it, or signs something else in its place
    (D.PENDING, D.HELD): AuditTag.DELIVERY_STOPPED,
    (D.HELD, D.PENDING): AuditTag.DELIVERY_RELEASED,
    (D.HELD, D.WITHDRAWN): AuditTag.DELIVERY_WITHDRAWN,
    # the destination took it, and would not commit to it afterwards
    (D.DELIVERED, D.PENDING): AuditTag.DELIVERY_NOT_COMMITTED,
}

HOLD_MOVES: Mapping[tuple[H, H], AuditTag] = {
    (H.WAITING, H.STOPPED): AuditTag.DISPATCH_STOPPED,
    (H.WAITING, H.RELEASED): AuditTag.DISPATCH_RELEASED,
    (H.STOPPED, H.RELEASED): AuditTag.DISPATCH_RELEASED,
    # a later signature goes in its place
    (H.WAITING, H.REPLACED): AuditTag.DISPATCH_REPLACED,
    (H.STOPPED, H.REPLACED): AuditTag.DISPATCH_REPLACED,
}

REQUEST_MOVES: Mapping[tuple[C, C], AuditTag] = {
    (C.WAITING, C.REPORTED): AuditTag.COMMITMENT_REPORTED,
    (C.WAITING, C.FAILED): AuditTag.COMMITMENT_REPORT_FAILED,
    # the peer asks once more, with the same Transaction UID and the same references
    (C.REPORTED, C.WAITING): AuditTag.COMMITMENT_REQUESTED,
    (C.FAILED, C.WAITING): AuditTag.COMMITMENT_REQUESTED,
}

PACKAGE_MOVES: Mapping[tuple[M, M], AuditTag] = {
    (M.IMPORTED, M.ACTIVE): AuditTag.MODEL_ACTIVATED,
    # another package took its place; it may come back
    (M.ACTIVE, M.IMPORTED): AuditTag.MODEL_DEACTIVATED,
    (M.IMPORTED, M.RETIRED): AuditTag.MODEL_RETIRED,
    (M.ACTIVE, M.RETIRED): AuditTag.MODEL_RETIRED,
}

SEARCH_MOVES: Mapping[tuple[S, S], AuditTag] = {
    (S.WAITING, S.DONE): AuditTag.PRIOR_SEARCHED,
    (S.WAITING, S.FAILED): AuditTag.PRIOR_SEARCHED,
}

PRIOR_MOVES: Mapping[tuple[E, E], AuditTag] = {
    (E.FOUND, E.FETCHING): AuditTag.PRIOR_FETCHING,
    (E.FETCHING, E.HERE): AuditTag.PRIOR_RETRIEVED,
    (E.FETCHING, E.REFUSED): AuditTag.PRIOR_REFUSED,
    (E.FETCHING, E.FOUND): AuditTag.PRIOR_FAILED,
    (E.FETCHING, E.FAILED): AuditTag.PRIOR_FAILED,
}

# a procedure step is an announcement; what is said of it is one kind of event
STEP_MOVES: Mapping[tuple[X, X], AuditTag] = {
    (X.IN_PROGRESS, X.IN_PROGRESS): AuditTag.STUDY_EXPECTED,
    (X.IN_PROGRESS, X.COMPLETED): AuditTag.STUDY_EXPECTED,
    (X.IN_PROGRESS, X.DISCONTINUED): AuditTag.STUDY_EXPECTED,
}

# a workitem of a client; that of a Reading follows READING_MOVES (PS3.4 table CC.1.1-2)
WORKITEM_MOVES: Mapping[tuple[W, W], AuditTag] = {
    (W.SCHEDULED, W.IN_PROGRESS): AuditTag.WORKITEM_CLAIMED,
    (W.IN_PROGRESS, W.COMPLETED): AuditTag.WORKITEM_COMPLETED,
    (W.IN_PROGRESS, W.CANCELED): AuditTag.WORKITEM_CANCELLED,
}

# a critical result; a new one is SUSPECTED, also when a radiologist confirms it in the same act
ALERT_MOVES: Mapping[tuple[A, A], AuditTag] = {
    (A.SUSPECTED, A.CONFIRMED): AuditTag.CRITICAL_CONFIRMED,
    (A.SUSPECTED, A.DISMISSED): AuditTag.CRITICAL_DISMISSED,
    (A.CONFIRMED, A.COMMUNICATED): AuditTag.CRITICAL_COMMUNICATED,
    # confirmed in error, before anybody was told
    (A.CONFIRMED, A.DISMISSED): AuditTag.CRITICAL_DISMISSED,
    # the record was corrected: nobody was reached
    (A.COMMUNICATED, A.CONFIRMED): AuditTag.CRITICAL_REOPENED,
}

NOTICE_MOVES: Mapping[tuple[N, N], AuditTag] = {
    (N.PENDING, N.SENDING): AuditTag.NOTICE_STARTED,
    (N.SENDING, N.SENT): AuditTag.NOTICE_SENT,
    (N.SENDING, N.PENDING): AuditTag.NOTICE_POSTPONED,
    (N.SENDING, N.FAILED): AuditTag.NOTICE_FAILED,
    (N.PENDING, N.WITHDRAWN): AuditTag.NOTICE_WITHDRAWN,
    (N.FAILED, N.PENDING): AuditTag.NOTICE_RESUBMITTED,
}

QUESTION_MOVES: Mapping[tuple[Q, Q], AuditTag] = {
    (Q.ASKED, Q.RUNNING): AuditTag.QUESTION_STARTED,
    (Q.RUNNING, Q.ANSWERED): AuditTag.QUESTION_ANSWERED,
    (Q.RUNNING, Q.REFUSED): AuditTag.QUESTION_REFUSED,
    (Q.RUNNING, Q.FAILED): AuditTag.QUESTION_FAILED,
    # the lease ran out, or waiting may help
    (Q.RUNNING, Q.ASKED): AuditTag.QUESTION_ASKED_AGAIN,
    # later images
    (Q.ASKED, Q.REFUSED): AuditTag.QUESTION_REFUSED,
}

REDRAFT_MOVES: Mapping[tuple[Q, Q], AuditTag] = {
    (Q.ASKED, Q.RUNNING): AuditTag.REDRAFT_STARTED,
    (Q.RUNNING, Q.OFFERED): AuditTag.REDRAFT_OFFERED,
    (Q.RUNNING, Q.REFUSED): AuditTag.REDRAFT_REFUSED,
    (Q.RUNNING, Q.FAILED): AuditTag.REDRAFT_FAILED,
    # the lease ran out, or waiting may help
    (Q.RUNNING, Q.ASKED): AuditTag.REDRAFT_ASKED_AGAIN,
    # the reader decides
    (Q.OFFERED, Q.ADOPTED): AuditTag.REDRAFT_ADOPTED,
    (Q.OFFERED, Q.DISCARDED): AuditTag.REDRAFT_DISCARDED,
    # later images
    (Q.ASKED, Q.REFUSED): AuditTag.REDRAFT_REFUSED,
    (Q.OFFERED, Q.REFUSED): AuditTag.REDRAFT_REFUSED,
}

FINISHED_READINGS = frozenset({R.DRAFTED, R.NO_DRAFT, R.FAILED, R.HELD, R.IGNORED})
WAITING_READINGS = frozenset({R.QUEUED, R.RUNNING, R.RETRYING})
SIGNED_REPORTS = frozenset({P.PRELIMINARY, P.FINAL, P.ADDENDED, P.CORRECTED})
