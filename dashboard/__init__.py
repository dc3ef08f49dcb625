"""The radiologist's review dashboard: the only owner of HTTP."""
