"""What verification looks at, one kind of thing a module; ``audit.verify`` puts the answers together."""
