"""The seal on the audit log: chain, tree, signed heads, proofs, and where they go. Events are written by ``db.uow``."""
