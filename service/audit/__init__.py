"""The audit: who changed access, or stopped, repeated or deleted work."""
