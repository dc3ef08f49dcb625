"""A person at the sign page: every form as it is shown, each check answered with a reason."""

import re
from typing import Any
from uuid import UUID

from werkzeug.test import TestResponse

from tests.dashboard_support import PASSWORD, Browser, Site

REASON = "Checked on the images"


def overrides(page: str, reason: str = REASON) -> dict[str, str]:
    """A reason for each check of a page."""
    return dict.fromkeys(re.findall(r'name="(override-[0-9a-f]{16})"', page), reason)


def sign(site: Site, browser: Browser, study_id: UUID, state: str = "FINAL", **fields: Any) -> TestResponse:
    """Sign what is there now, with a reason for each check."""
    path = f"/studies/{study_id}/sign/{state}"
    given = {"version": site.report(study_id).version, "password": PASSWORD, "checked": "1"}
    return browser.submit(path, **(overrides(browser.get(path).text) | given | fields))
