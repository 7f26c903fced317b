"""A software team: agents that hand typed records to each other over topics. See README.md."""
