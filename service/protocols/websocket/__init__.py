"""A chat over WebSocket: the log of a thread as frames, and the client's inputs. docs/http.md describes the frames."""
