"""What a person looks at: the dry run, costs, the progress line, curves, pictures."""
