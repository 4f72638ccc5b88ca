"""What an error of obstore means: which of our errors it becomes, whether a retry can help, what to do now.

obstore tells most of them apart only by text, and the text has the server's whole answer in it: of that nothing is
shown but the status and the code, for an answer may name access keys, signed requests and signed addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from eventcore.errors import DiskFull, EventCoreError, MissingObject, RemoteError

_STATUS = re.compile(r"\bstatus(?: code)?: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_BEYOND_END = re.compile(r"status(?: code)?: 416\b|StartTooLarge")
_RENEW = "renew the credentials"
_CHECK = "check the credentials and what they permit, renew them if they have expired"
_RETRY = "try again; look at the network and at the object store if it stays so"


class _Meaning(NamedTuple):
    """One kind of failure: how it shows in the error's text."""

    pattern: str
    sentence: str
    hint: str
    retriable: bool = False


_NO_BUCKET = _Meaning(
    "NoSuchBucket|ContainerNotFound", "there is no such bucket", "create the bucket, or correct the URL"
)
_MEANINGS = [
    _Meaning(
        r"LocalFileSystem|^OSError|\(os error 13\)", "the folder cannot be used", "check the path and its permissions"
    ),
    _NO_BUCKET,
    _Meaning(
        r"status(?: code)?: (?:5(?!01)\d\d|429|408)\b|SlowDown", "the object store is not able to answer", _RETRY, True
    ),
    _Meaning("ExpiredToken|TokenRefreshRequired|TokenExpired", "the credentials have expired", _RENEW),
    _Meaning("RequestTimeTooSkewed", "this machine's clock is wrong", "set the clock, then try again"),
    _Meaning(
        "PermanentRedirect|AuthorizationHeaderMalformed|BareRedirect",
        "the bucket is in another region",
        "set `region` in the options, or AWS_REGION",
    ),
    _Meaning(
        r"169\.254\.169\.254|metadata\.google|169\.254\.170\.2|MissingAccount|TokenRequest|Missing\w*Key",
        "there are no credentials, or only a part of them",
        "give them in the options, or in the environment (such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    ),
    _Meaning(
        "PermissionDeniedError|UnauthenticatedError|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken"
        r"|status(?: code)?: 40[13]\b|PermissionDenied",
        "the object store refuses the credentials",
        _CHECK,
    ),
    _Meaning("BadScheme", "plain HTTP is not allowed", "use https, or set `allow_http` in the options"),
    _Meaning("InvalidUri|RelativeUrlWithoutBase", "an address is no URL", "correct the `endpoint`"),
    _Meaning(
        "Generic Config error|InvalidAccessKey|OpenCredentials|DecodeCredentials",
        "an option has a value that cannot be used",
        "look at the options, and at the environment's",
    ),
    _Meaning(r"NotImplementedError|status(?: code)?: 501\b", "the object store cannot do this", "use another one"),
    _Meaning("dns error", "the object store's name is not known", f"check the `endpoint`; {_RETRY}", True),
    _Meaning("InvalidCertificate|UnknownIssuer", "the object store's certificate is not trusted", "check it"),
    _Meaning("ConnectionRefused", "the object store refuses connections", f"check the `endpoint`; {_RETRY}", True),
    _Meaning("TimedOut|kind: Timeout|deadline has elapsed", "the object store did not answer in time", _RETRY, True),
    _Meaning("PanicException", "obstore failed", "report it, with what it wrote to standard error"),
    _Meaning("HTTP error|HttpError|reqwest|hyper|JoinError", "the connection broke", _RETRY, True),
]
_OTHER = _Meaning("", "the object store refused the call", "check the URL and the options")
_NO_SPACE = re.compile(r"\bcode: (?:28|122)\b.*kind: (?:StorageFull|QuotaExceeded|FilesystemQuotaExceeded)", re.DOTALL)


@contextmanager
def typed(url: str) -> Iterator[None]:
    """An error of obstore inside becomes one of ours about the object at `url`."""
    try:
        yield
    except EventCoreError:
        raise
    except BaseException as error:
        if not _is_obstores(error):
            raise
        raise translated(error, url) from None  # what is behind it may have secrets in its text


def _is_obstores(error: BaseException) -> bool:
    """Its own exceptions, those of Python that it uses, and the panics of Rust, which are no Exception."""
    module = type(error).__module__
    return module.startswith(("obstore", "pyo3")) or isinstance(error, OSError | NotImplementedError | ValueError)


def is_beyond_end(error: BaseException) -> bool:
    """Whether the object was there, but nothing of the range that was asked for."""
    return _BEYOND_END.search(str(error)) is not None


def translated(error: BaseException, url: str) -> EventCoreError:
    """Our error for one of obstore's."""
    text = f"{type(error).__name__}: {error}"
    if _NO_SPACE.search(text):
        return DiskFull("no space left to write the object", path=url)
    meaning = next((meaning for meaning in _MEANINGS if re.search(meaning.pattern, text)), _OTHER)
    if isinstance(error, FileNotFoundError) and meaning is not _NO_BUCKET:
        return MissingObject(url)
    return RemoteError(meaning.sentence + _answer(text), path=url, retriable=meaning.retriable, hint=meaning.hint)


def _answer(text: str) -> str:
    """What the server said, as far as it is safe to show."""
    found = [match[1] for match in (_STATUS.search(text), _CODE.search(text)) if match]
    return f" (it answered {' '.join(found)})" if found else ""
