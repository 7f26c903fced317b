"""Login roles of SQL users, each bound to one tenant."""
