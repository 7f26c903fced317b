"""What changes a message that exists: cancel, input, redrive, change."""
