"""Topics: named, retained logs of records."""
