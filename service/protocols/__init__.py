"""Protocols over the same stores: each package lets its clients use threads, messages and logs in one protocol.

A protocol package holds

    routes.py      the Litestar handlers and a `router`, which api/app.py lists
    model.py       the protocol's own types, as its clients write and read them
    translate.py   pure functions from those types to messages, and from entries of a log to those types

and further modules where a connection has a state of its own (websocket: session, requests, transcript, peer,
services). A protocol uses the stores and the feed, never SQL, and never imports another protocol. The only cursor is
the position in the log; numbers that a protocol needs are derived from it, so that every replica gives the same ones.
"""
