"""What the schema registry refuses; the tree stands at the head of `service/errors.py`."""

from service.errors import Conflict, NotFound, Unprocessable


class UnknownSubject(NotFound):
    """There is no such subject."""


class UnknownVersion(NotFound):
    """The subject has no such version."""


class UnknownSchema(NotFound):
    """There is no such schema."""


class SubjectDeleted(NotFound):
    """The subject is deleted already; a permanent deletion may follow."""


class SubjectNotDeleted(NotFound):
    """The subject must be deleted before it can be deleted permanently."""


class VersionDeleted(NotFound):
    """The version is deleted already; a permanent deletion may follow."""


class VersionNotDeleted(NotFound):
    """The version must be deleted before it can be deleted permanently."""


class NoOwnRule(NotFound):
    """The subject has no compatibility, or no mode, of its own."""


class InvalidSchema(Unprocessable):
    """The text is no valid schema of its kind, or the schemas that it refers to are missing."""


class IncompatibleSchema(Conflict):
    """The schema breaks the compatibility of its subject."""


class ReadOnlySubject(Unprocessable):
    """The subject takes no new versions."""


class ReferenceExists(Unprocessable):
    """Another schema refers to the version or subject."""
