"""The model store's files: fetched or imported, checked, sealed with a manifest, and only then visible.

What people decided about a package (licence, activation, retirement) is in ``db.packages``.
"""
