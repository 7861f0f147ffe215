"""Who we are for Kubeflow Pipelines: a token, a cookie, the pod's own account or kubectl, and never two of them.

Values are sent to the server and nowhere else: messages call them by the name of their variable or file.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookiejar import LoadError, MozillaCookieJar
from pathlib import Path
from urllib.parse import urlsplit

TOKEN_FILE, TOKEN, COOKIE_FILE, COOKIE = "KFP_TOKEN_FILE", "KFP_TOKEN", "KFP_COOKIE_FILE", "KFP_COOKIE"
POD_TOKEN = "KF_PIPELINES_SA_TOKEN_PATH"
PROJECTED = Path("/var/run/secrets/kubeflow/pipelines/token")
WAYS = (TOKEN_FILE, TOKEN, COOKIE_FILE, COOKIE, POD_TOKEN)
NETSCAPE_FIELDS = 7


class SubmitError(RuntimeError):
    """The cluster can't be reached or has refused; the message says what to do."""


@dataclass(frozen=True)
class Auth:
    """One way to say who we are. name: as messages call it. advice: what to do when it is refused.

    token: reads it anew, so that one which is renewed while we wait stays good. Both values stay out of `repr`.
    """

    name: str
    advice: str
    token: Callable[[], str] | None = field(default=None, repr=False)
    cookie: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        """What a request carries, as of now. Raises SubmitError where the token's file has gone."""
        if self.token is not None:
            return {"Authorization": f"Bearer {self.token()}"}
        return {"Cookie": self.cookie} if self.cookie else {}

    def hide(self, text: str) -> str:
        """`text` without our token and cookie, which a server may repeat in its answer."""
        try:
            values = [self.token() if self.token is not None else "", self.cookie]
        except SubmitError:
            values = [self.cookie]
        for value in values:
            text = text.replace(value, "***") if value else text
        return text


NOBODY = Auth(
    "nothing to say who we are",
    f"set {TOKEN_FILE} to a file with a bearer token (kubectl create token latefuse-submitter --audience "
    f"pipelines.kubeflow.org), or {TOKEN} to the token itself, or {COOKIE} to the session cookie of the browser",
)


def choose(host: str, context: str | None = None, environment: Mapping[str, str] = os.environ) -> Auth:
    """The one way that the environment names; the pod's projected token where it names none and there is one.

    host: whom the cookies of a file are for. context: kubectl's, which is a way of its own. Raises SubmitError for two
    at once and for a file that is missing, empty or can't be read.
    """
    given = [name for name in WAYS if environment.get(name)] + (["--context"] if context else [])
    if len(given) > 1:
        raise SubmitError(f"{' and '.join(given)} are given at once, each says who we are: keep one, unset the others")
    if not given and PROJECTED.exists():
        return _of_file(f"the pod's token in {PROJECTED}", PROJECTED, _POD_ADVICE)
    if not given or context:
        return NOBODY
    [name] = given
    value = environment[name]
    if name == TOKEN_FILE:
        return _of_file(
            f"{name}={value}", Path(value).expanduser(), "write a fresh token into the file, kubectl create token ..."
        )
    if name == POD_TOKEN:
        return _of_file(f"{name}={value}", Path(value).expanduser(), _POD_ADVICE)
    if name == TOKEN:
        return Auth(name, f"the token may have run out: make a fresh one, or use {TOKEN_FILE}", lambda: value.strip())
    advice = "log in again in the browser and copy the session cookie anew"
    return Auth(name, advice, cookie=value.strip() if name == COOKIE else _cookies(Path(value).expanduser(), host))


_POD_ADVICE = "the pod's service account must be bound to a role for pipelines.kubeflow.org in the namespace"


def _of_file(name: str, path: Path, advice: str) -> Auth:
    def token() -> str:
        return _line(path, name, "the token")

    token()
    return Auth(name, advice, token)


def _line(path: Path, name: str, what: str) -> str:
    text = _text(path, name)
    if not text:
        raise SubmitError(f"{name}: the file is empty, {what} must stand in it")
    if len(text.split()) > 1 and what == "the token":
        raise SubmitError(f"{name}: the file holds more than {what}, it must stand there alone")
    return text


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise SubmitError(f"{name}: there is no such file") from None
    except UnicodeDecodeError:
        raise SubmitError(f"{name}: the file is no text") from None
    except OSError as error:
        raise SubmitError(f"{name}: the file can't be read ({error.strerror})") from None


def _cookies(path: Path, host: str) -> str:
    """The header of a file of cookies: the header itself on one line, or what browsers and curl export."""
    name = f"{COOKIE_FILE}={path}"
    text = _line(path, name, "the cookie")
    if not text.startswith("#") and len(text.split("\n")[0].split("\t")) < NETSCAPE_FIELDS:
        if "\n" in text or "=" not in text:
            raise SubmitError(f"{name}: expected one line, name=value; ..., or a cookies.txt as browsers export it")
        return text.removeprefix("Cookie:").strip()
    jar = MozillaCookieJar(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jar.load(ignore_discard=True, ignore_expires=False)
    except (LoadError, OSError):  # whose text repeats the line, cookie and all
        raise SubmitError(f"{name}: no cookies.txt that can be read: its first line names its format") from None
    asked = urlsplit(host)
    kept = [
        f"{one.name}={one.value}"
        for one in jar
        if _of(one.domain, asked.hostname or "") and (not one.secure or asked.scheme == "https")
    ]
    if not kept:
        raise SubmitError(f"{name}: no cookie for {asked.hostname} that is still valid; log in again and export anew")
    return "; ".join(kept)


def _of(domain: str, host: str) -> bool:
    domain = domain.lstrip(".").lower()
    return host == domain or host.endswith(f".{domain}")
