"""Settings, errors, logs, code tables, routing rules: what every process shares."""
