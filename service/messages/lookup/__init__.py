"""The status of messages: of one, of some, and of a page of a thread."""
