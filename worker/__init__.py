"""Celery tasks and the drafting pipeline: the only owner of GPU libraries."""
