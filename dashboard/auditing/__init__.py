"""The pages of the audit's named questions."""
