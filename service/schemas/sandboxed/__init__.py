"""Questions about the schemas of clients, which child processes answer: for some, the libraries take hours."""
