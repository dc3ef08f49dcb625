"""Who people are: single sign-on, directory, passkeys, screen lock, tokens, break-glass."""
