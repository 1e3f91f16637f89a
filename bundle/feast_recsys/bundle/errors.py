"""Every error that feast-recsys raises on purpose.

Each class carries the gRPC status code and the machine-readable reason with which a server answers it, as
plain strings, so that this module needs no grpc. A message names the offending field and what to do.

    RecsysError
    ├── InvalidArgument           the caller's request is wrong
    ├── UnknownRecommender        no such recommender
    ├── BundleNotLoaded           nothing to serve yet
    ├── BundleNotHeld             the requested bundle is gone
    ├── MissingFeature            a required feature has no value
    ├── StaleFeature              a value is older than its view's ttl, and the policy is to fail
    ├── OnlineStoreUnavailable    the store failed or was too slow, and the policy is to fail
    ├── IndexUnavailable          the server of an index failed or was too slow
    ├── DeadlineExceeded          the caller's deadline passed, or the caller went away
    ├── InvalidSettings           the recsys section of feature_store.yaml is wrong
    ├── InvalidSignature          a model and its declared inputs do not fit
    ├── InvalidRepository         the Feast repository lacks what the settings name
    ├── CorruptArtifact           a file is missing, broken or of another version
    ├── ParityFailed              an export differs from the module it came from
    └── JobFailed                 a materialization step failed or another job holds the lease
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class RecsysError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What is wrong and what to do about it.
        field: Path of the offending request field, setting or model input; empty where none applies.
        metadata: Further facts for the caller's machine, as strings.
    """

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, field: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata or {}))


class InvalidArgument(RecsysError):
    """Raised when a request can't be answered as it stands; `field` is the path of the culprit."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_ARGUMENT"


class UnknownRecommender(RecsysError):
    """Raised when a request names a recommender that the bundle does not hold."""

    code = "NOT_FOUND"
    reason = "UNKNOWN_RECOMMENDER"


class BundleNotLoaded(RecsysError):
    """Raised while no bundle has been loaded."""

    code = "UNAVAILABLE"
    reason = "BUNDLE_NOT_LOADED"


class BundleNotHeld(RecsysError):
    """Raised when a request asks for a bundle that the server does not hold (any more)."""

    code = "FAILED_PRECONDITION"
    reason = "BUNDLE_NOT_HELD"


class MissingFeature(RecsysError):
    """Raised when an input marked `required` has no value."""

    code = "FAILED_PRECONDITION"
    reason = "MISSING_FEATURE"


class StaleFeature(RecsysError):
    """Raised when a value is older than its view's ttl and the view's policy is `fail`."""

    code = "FAILED_PRECONDITION"
    reason = "STALE_FEATURE"


class OnlineStoreUnavailable(RecsysError):
    """Raised when the online store failed or was too slow and the policy is `fail`."""

    code = "UNAVAILABLE"
    reason = "ONLINE_STORE_UNAVAILABLE"


class IndexUnavailable(RecsysError):
    """Raised when the server that holds an index can't be reached, fails, or is too slow."""

    code = "UNAVAILABLE"
    reason = "INDEX_UNAVAILABLE"


class DeadlineExceeded(RecsysError):
    """Raised when the caller's deadline passed or the call was cancelled; work stops."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class InvalidSettings(RecsysError):
    """Raised when the `recsys` section is wrong; `field` is the path of the setting."""

    code = "FAILED_PRECONDITION"
    reason = "INVALID_SETTINGS"


class InvalidSignature(RecsysError):
    """Raised when a signature is wrong or does not fit its graph; `field` names the input."""

    code = "FAILED_PRECONDITION"
    reason = "INVALID_SIGNATURE"


class InvalidRepository(RecsysError):
    """Raised when the Feast repository lacks, or has in another form, what the settings or a model name."""

    code = "FAILED_PRECONDITION"
    reason = "INVALID_REPOSITORY"


class CorruptArtifact(RecsysError):
    """Raised when a file of an exported model or bundle is missing, broken or of an unknown version."""

    code = "DATA_LOSS"
    reason = "CORRUPT_ARTIFACT"


class ParityFailed(RecsysError):
    """Raised when an exported graph differs from its torch module by more than the tolerance."""

    code = "FAILED_PRECONDITION"
    reason = "PARITY_FAILED"


class JobFailed(RecsysError):
    """Raised when a step of a materialization job fails, or another job holds the lease."""

    code = "ABORTED"
    reason = "JOB_FAILED"
