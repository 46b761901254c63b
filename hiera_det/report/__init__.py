"""Reports for people: the dry run, costs, the progress line, curves, pictures."""
