"""Figures for the demonstration models: counts of findings, and reading findings out of report text."""
