"""Pages of who runs the system: queue, models, rules, disk, self-test, and what monitors ask."""
