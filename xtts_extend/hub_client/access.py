"""Access to the Hugging Face Hub: its address, the user's token, and errors in plain words."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from enum import Enum
from typing import NoReturn

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    # The base class of transport errors: httpx2's in huggingface_hub 2, httpx's in 1.
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import xtts_extend
from xtts_extend.errors import ConfigError, MachineError, XttsExtendError

#: The repository with the published XTTS-v2.
XTTS_REPOSITORY = "coqui/XTTS-v2"
#: Name of XTTS-v2's license, and its identifier on the Hub.
XTTS_LICENCE, XTTS_LICENCE_ID = "Coqui Public Model License (CPML)", "coqui-public-model-license"
LIBRARY = "xtts_extend"
#: Seconds to wait for an answer about a repository.
TIMEOUT_S = 30.0

_HOW_TO_LOG_IN = (
    "Log in with `hf auth login`, or set the environment variable HF_TOKEN to an access token from {}/settings/tokens."
)


class RepositoryKind(str, Enum):
    """What a repository contains, as the Hub calls it."""

    MODEL = "model"
    DATA_SET = "dataset"


class RevisionError(ConfigError):
    """Error for a branch, tag or commit that a repository does not have."""


def endpoint() -> str:
    """Return the Hub's address, without a slash at the end: $HF_ENDPOINT, or https://huggingface.co.

    Raises:
        ConfigError: $HF_ENDPOINT is not an address.
    """
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", address):
        raise ConfigError(
            f"The environment variable HF_ENDPOINT is {address!r}, which is not an address. Expected something like "
            "https://huggingface.co. Correct it, or unset it."
        )
    return address


def hub_api() -> HfApi:
    """Return the client for `endpoint()`, which sends the user's token if there is one."""
    return HfApi(endpoint=endpoint(), library_name=LIBRARY, library_version=xtts_extend.__version__)


def page_of(repo: str, kind: RepositoryKind = RepositoryKind.MODEL) -> str:
    """Return the address of a repository's page."""
    return f"{endpoint()}/{'datasets/' if kind is RepositoryKind.DATA_SET else ''}{repo}"


def require_repository_name(repo: str) -> None:
    """Raise ConfigError unless a repository's name has the form USER/NAME."""
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", repo, re.ASCII):
        raise ConfigError(f"Expected the name of a repository, USER/NAME, got {repo!r}.")


def require_token() -> None:
    """Raise ConfigError unless the user is logged in."""
    if not get_token():
        raise ConfigError(
            f"There is no access token for the Hub. {_HOW_TO_LOG_IN.format(endpoint())} The token needs permission to "
            "write to the repository."
        )


@contextlib.contextmanager
def hub_errors(repo: str, kind: RepositoryKind = RepositoryKind.MODEL) -> Iterator[None]:
    """Convert errors of huggingface_hub that concern a repository into errors of this package.

    Errors of the file system pass through. The user's token never appears in a message, and neither does the original
    error, which could contain it.

    Args:
        repo: USER/NAME.
        kind: What the repository contains.

    Raises:
        RevisionError: The repository does not have the requested revision.
        ConfigError: The repository does not exist, is gated, or refuses access, or HF_HUB_OFFLINE is set.
        MachineError: The Hub cannot be reached, or answers with an error.
    """
    page = page_of(repo, kind)
    shown = f"hf:{repo}" if kind is RepositoryKind.DATA_SET else repo
    try:
        yield
    except XttsExtendError:
        raise
    except OfflineModeIsEnabled:
        raise ConfigError(
            f"{shown} cannot be reached because the environment variable HF_HUB_OFFLINE is set. Unset it, or run the "
            "command on a machine with access to the Hub."
        ) from None
    except GatedRepoError:
        raise ConfigError(
            f"{shown} is gated. Request access at {page}, or accept its terms there. "
            f"{_HOW_TO_LOG_IN.format(endpoint())}"
        ) from None
    except RevisionNotFoundError:
        raise RevisionError(f"{shown} has no such revision. See {page}/commits/main.") from None
    except HfHubHTTPError as error:
        _raise_for_status(shown, error)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is not a valid name for a repository: {redacted(error)}") from None
    # The last one is raised for a web page in place of an answer, such as the login page of a network.
    except (HTTPError, OSError, json.JSONDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise MachineError(
            f"The connection to {endpoint()} failed: {redacted(error)}. Check the network, the proxy and HF_ENDPOINT, "
            "then run the command again. What has arrived is kept."
        ) from None


def _raise_for_status(repo: str, error: HfHubHTTPError) -> NoReturn:
    status = error.response.status_code
    said = redacted(error.server_message or error)
    # For a missing repository, the Hub answers 401 to users who are not logged in.
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        advice = (
            "Check the spelling, and that your account may read it."
            if get_token()
            else f"Check the spelling. If the repository is private: {_HOW_TO_LOG_IN.format(endpoint())}"
        )
        raise ConfigError(
            f"{repo} does not exist on {endpoint()}, is private, or your token is not valid ({said}). {advice}"
        ) from None
    if status == 403:
        raise ConfigError(
            f"{endpoint()} refused access to {repo}: {said}. Use a token that has the permission to read it, or "
            f"to write to it for publishing ({endpoint()}/settings/tokens)."
        ) from None
    if status in (400, 422):
        raise ConfigError(f"{endpoint()} refused the request for {repo}: {said}") from None
    raise MachineError(
        f"{endpoint()} answered the request for {repo} with status {status}: {said}. Run the command again later."
    ) from None


def redacted(error: object) -> str:
    """Return an error's text on one line and without the user's token."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    token = get_token()
    return text.replace(token, "[token]") if token else text
