"""Readings as UPS-RS workitems (PS3.18 section 11)."""
