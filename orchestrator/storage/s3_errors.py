"""What an S3 client's failure means: one table from S3's answers to the errors of this package.

Messages carry S3's error code and never the client's own text, which may quote a key id or a signed request.
"""

from __future__ import annotations

import errno

from orchestrator.errors import (
    AccessDenied,
    DamagedStore,
    MissingObject,
    OrchestratorError,
    StoreUnavailable,
    UnsupportedStore,
)

_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidSecurity",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
    "NoAuthTokenError",
}
_TRY_LATER = {
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "OperationAborted",
    "ConditionalRequestConflict",
    "BadDigest",  # these three: the bytes changed on their way
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "NoSuchUpload",  # these two: an upload in parts is over, by a lifecycle rule or a first try whose answer was lost
    "InvalidPart",
}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an AWS profile, or a role on the machine"
_LOCAL_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOENT, errno.EACCES, errno.EISDIR}


def explain(error: Exception, *, where: str, bucket: str, permission: str) -> Exception:
    """The error to raise for what the client raised.

    Args:
        error: from s3fs, botocore or the event loop.
        where: the object, for the message.
        bucket: its bucket.
        permission: the S3 action that the call needs, such as `s3:PutObject`.

    Returns:
        An error of this package; or `error` itself, when it comes from the local disk or is a bug.
    """
    answer = _answer(error)
    if answer is not None:
        status, code, operation = answer
        # The client ends an upload in parts that broke, unasked.
        permission = "s3:AbortMultipartUpload" if operation == "AbortMultipartUpload" else permission
        return _from_answer(status, code, where=where, bucket=bucket, permission=permission)
    name = type(error).__name__
    if name in _NO_CREDENTIALS:
        return AccessDenied(f"no usable credentials for S3 ({name})", where=where, hint=_CREDENTIALS_HINT)
    if name in ("ParamValidationError", "InvalidRegionError", "UnknownEndpointError") or _is_bad_endpoint(error):
        return UnsupportedStore(
            f"bucket, endpoint or region is malformed ({name})", where=where, hint="check the storage URL and endpoint"
        )
    if name == "FlexibleChecksumError":
        return DamagedStore(
            "what was read is not what the store's own checksum says",
            where=where,
            hint="restore the object from a backup, or have its member trained again",
        )
    if isinstance(error, OSError) and error.errno in _LOCAL_TROUBLE:
        return error
    if _is_passing(error):
        return StoreUnavailable(
            f"S3 is out of reach ({name})", where=where, hint="check the endpoint and the network; then start again"
        )
    return error


def is_precondition_failed(error: Exception) -> bool:
    """The object existed: the answer to the loser of a create."""
    answer = _answer(error)
    return answer is not None and answer[0] == 412


def _answer(error: BaseException | None) -> tuple[int, str, str] | None:
    """HTTP status, S3's error code, operation; s3fs hides them in a Python error's cause. None: S3 did not answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            code = str(response["Error"].get("Code", ""))
            status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            status = status or (int(code) if code.isdecimal() else 0)
            return status, code, str(getattr(error, "operation_name", ""))
        error = error.__cause__
    return None


def _from_answer(status: int, code: str, *, where: str, bucket: str, permission: str) -> OrchestratorError:
    said = f"HTTP {status} {code}".strip()
    if code == "NoSuchBucket":
        return UnsupportedStore(
            f"the bucket {bucket!r} does not exist",
            where=where,
            hint=f"create it with `aws s3 mb s3://{bucket}`, or correct the storage URL",
        )
    if code == "RequestTimeTooSkewed":
        return AccessDenied(
            "S3 refuses this machine's clock (RequestTimeTooSkewed)", where=where, hint="synchronise the clock (NTP)"
        )
    if code in _WRONG_CREDENTIALS or status == 401:
        return AccessDenied(f"S3 refuses the credentials ({said})", where=where, hint=_CREDENTIALS_HINT)
    if code in _WRONG_REGION or status in (301, 307):
        return UnsupportedStore(
            f"the bucket {bucket!r} is in another region ({said})", where=where, hint="set the storage's region"
        )
    if code in _TRY_LATER or status in (408, 409, 412, 429) or (status >= 500 and status != 501):
        return StoreUnavailable(f"S3 could not do it now ({said})", where=where, hint="start again later")
    if status == 403:
        return AccessDenied(
            f"S3 forbids it ({said})", where=where, hint=f"grant {permission} on bucket {bucket!r} to these credentials"
        )
    if status == 404:
        return MissingObject("no such object", where=where)
    return UnsupportedStore(
        f"S3 refuses the request ({said})", where=where, hint="use a store that supports conditional writes"
    )


def _is_bad_endpoint(error: Exception) -> bool:
    return type(error) is ValueError and "endpoint" in str(error).lower()


def _is_passing(error: Exception) -> bool:
    """No answer: timeouts, resets, connections that cannot be made."""
    from botocore.exceptions import BotoCoreError
    from s3fs.core import S3_RETRYABLE_ERRORS

    return isinstance(error, (OSError, TimeoutError, BotoCoreError, *S3_RETRYABLE_ERRORS))
