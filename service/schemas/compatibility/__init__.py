"""Which changes between two versions of a schema break a reader.

Each module has a function `unreadable(reader, writer)`: why the reader may meet a value of the writer that it does not
accept. BACKWARD asks it with the new schema as the reader, FORWARD with the old one.
"""
