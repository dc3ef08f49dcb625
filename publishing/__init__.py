"""From rows and images to result objects: what an event of a report makes, and for whom."""
