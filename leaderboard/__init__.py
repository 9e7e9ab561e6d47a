"""What a result is, and how it is shown. Never imports torch."""
