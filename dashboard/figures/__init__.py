"""Statistics of the quality page: pure functions over rows, no database, no web."""
