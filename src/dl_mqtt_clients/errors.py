"""Every exception of the library.

FederatedLearningError
├── ConfigurationError     a setting is wrong; lists every mistake with its place
├── WireError              bytes or JSON from the network are not what the protocol says
│   ├── MessageError         a JSON message
│   └── TransferError        chunks, hashes, tensors
├── TransportError         the broker cannot be reached, refused us, or went away
├── RefusedError           the manager does not count an update; carries the reason sent to the node
├── ModelError             a model cannot be rebuilt, does not fit, or is not allowed
├── DataError              a data set or stream cannot be read as asked
├── StateError             what is on disk is not what was written
└── DuplicateInstanceError another process runs under this service's name
"""


class FederatedLearningError(Exception):
    """Root of all errors raised on purpose by this library."""


class ConfigurationError(FederatedLearningError):
    """One or more settings are wrong.

    `mistakes` holds one line each: "train.epochs: expected an integer ≥ 1. Received: 'x' (file.yaml:14)".
    """

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class WireError(FederatedLearningError):
    """Received bytes do not follow the protocol."""


class MessageError(WireError):
    """A JSON message is malformed, too new, or has a field out of range."""


class TransferError(WireError):
    """A chunk, a blob's hash, or a tensor file is not what was announced."""


class TransportError(FederatedLearningError):
    """The broker cannot be reached, refused the connection, or closed it."""


class RefusedError(FederatedLearningError):
    """The manager does not take an offer or update; `reason` goes back to the node."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelError(FederatedLearningError):
    """A model cannot be rebuilt from its description, is not allowed, or does not fit."""


class DataError(FederatedLearningError):
    """A data set or stream cannot be read as asked."""


class StateError(FederatedLearningError):
    """Files in a state folder are not what this library writes."""


class DuplicateInstanceError(FederatedLearningError):
    """Another process runs under the same node id and role."""
