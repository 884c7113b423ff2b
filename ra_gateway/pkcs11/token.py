"""The HSM's library, and tokens that are logged in to: sessions for any number of threads."""

from __future__ import annotations

import ctypes
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import pkcs11 as cryptoki
from pkcs11._pkcs11 import lib as CryptokiLibrary  # noqa: N812 - a class, whatever its name

from ra_gateway.owners import is_roots_alone
from ra_gateway.pkcs11.reference import Reference, Trouble, read_pin

MAX_SESSIONS: Final = 8
"""Sessions with one token, and threads that sign; as many signatures are under way at once. HSMs that answer
over the network reach their full rate with about that many, and the smallest allow some ten sessions."""

_PAUSE_SECONDS = 1.0  # between two attempts to reach a token that is gone

T = TypeVar("T")

_CKR_OK: Final = 0x0
_CKR_ALREADY_INITIALIZED: Final = 0x191
_CKF_OS_LOCKING_OK: Final = 0x2


class _InitializeArguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS (PKCS#11 5.4): no mutex functions of ours, those of the system may be used."""

    _fields_ = (
        ("mutex_functions", ctypes.c_void_p * 4),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class _FunctionList(ctypes.Structure):
    """The beginning of CK_FUNCTION_LIST."""

    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        ("C_Initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
    )


class _Library(CryptokiLibrary):
    """A PKCS#11 library that knows that several threads use it.

    python-pkcs11 calls C_Initialize with NULL, which promises that one thread alone will call, and then lets
    threads call at the same time; libraries leave their locks out on that promise. C_Finalize is never called:
    the process ends instead, and no thread finds the library gone below it.
    """

    def initialize(self) -> None:
        functions = ctypes.POINTER(_FunctionList)()
        library = ctypes.CDLL(self.so)  # open already; this counts one more user
        result = library.C_GetFunctionList(ctypes.byref(functions))
        if result == _CKR_OK:
            arguments = _InitializeArguments(flags=_CKF_OS_LOCKING_OK)
            result = functions.contents.C_Initialize(ctypes.addressof(arguments))
        if result not in (_CKR_OK, _CKR_ALREADY_INITIALIZED):
            raise Trouble(
                f"the PKCS#11 library {self.so} does not start (CKR 0x{result:x})",
                "See the HSM's documentation: its configuration file, its service, its environment variables",
            )


@dataclass(slots=True)
class Connection:
    """A session, and the handles of keys that were found in it."""

    session: Any
    keys: dict[Reference, Any] = field(default_factory=dict)

    def close(self) -> None:
        with suppress(cryptoki.PKCS11Error):  # a session that is dead already is as good as closed
            self.session.close()


_LOST: Final = (
    cryptoki.DeviceError,
    cryptoki.DeviceRemoved,
    cryptoki.FunctionFailed,
    cryptoki.GeneralError,
    cryptoki.KeyHandleInvalid,
    cryptoki.NoSuchKey,  # private objects of a token that has logged us out are not found
    cryptoki.ObjectHandleInvalid,
    cryptoki.OperationActive,
    cryptoki.SessionClosed,
    cryptoki.SessionHandleInvalid,
    cryptoki.SlotIDInvalid,
    cryptoki.TokenNotPresent,
    cryptoki.TokenNotRecognised,
    cryptoki.UserNotLoggedIn,
)
"""What HSMs answer once they were restarted, removed or logged out: worth one new login."""

_EXPLANATIONS: Final[Mapping[type[cryptoki.PKCS11Error], tuple[str, str]]] = MappingProxyType(
    dict.fromkeys(
        (cryptoki.PinIncorrect, cryptoki.PinInvalid, cryptoki.PinLenRange),
        (
            "the HSM does not accept the PIN",
            "Correct the PIN file; tokens lock themselves after a few wrong attempts",
        ),
    )
    | {
        cryptoki.PinLocked: (
            "the HSM has locked the PIN",
            "Unlock it as the token's security officer",
        ),
        cryptoki.PinExpired: ("the PIN has expired", "Set a new one with the HSM's own tool"),
        cryptoki.UserPinNotInitialized: (
            "the token has no user PIN yet",
            "Initialise it with the HSM's own tool",
        ),
        cryptoki.NoSuchKey: (
            "the token has no such private key, or does not show it without a PIN",
            "Correct object and id of the URI, or add pin-source",
        ),
        cryptoki.MultipleObjectsReturned: (
            "the token has several private keys of this name",
            "Tell them apart: give object and id in the URI",
        ),
    }
)
_PIN_REFUSED: Final = (
    cryptoki.PinExpired,
    cryptoki.PinIncorrect,
    cryptoki.PinInvalid,
    cryptoki.PinLenRange,
    cryptoki.PinLocked,
)


def explain(error: cryptoki.PKCS11Error) -> Trouble:
    name = " ".join(filter(None, (type(error).__name__, str(error))))
    what, todo = _EXPLANATIONS.get(
        type(error), (f"the HSM answered {name}", "See the HSM's own log and documentation")
    )
    return Trouble(what, todo, final=isinstance(error, _PIN_REFUSED))


class Token:
    """A token that is logged in to, with the sessions to use it; for any number of threads.

    The login counts for all sessions of this process and ends with the last of them. The session that logged
    in is therefore kept and not used; the others come and go. The PIN is remembered for logging in again.
    """

    def __init__(self, library: _Library, reference: Reference, pin: str | None) -> None:
        self._library = library
        self._reference = reference
        self._pin = pin
        self._places = threading.BoundedSemaphore(MAX_SESSIONS)
        self._lock = threading.Lock()
        self._token: Any = None
        self._login: Connection | None = None
        self._free: list[Connection] = []
        self._logins = 0
        self._dropped_at = -math.inf
        self._trouble: Trouble | None = None
        self._trouble_until = -math.inf

    def has_pin(self, pin: str | None) -> bool:
        """Tell whether this is the PIN it is used with."""
        return secrets.compare_digest((self._pin or "").encode(), (pin or "").encode())

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do something in a session; once more after a new login if the token was lost.

        Raises:
            Trouble: It cannot be reached, or refuses.
        """
        with self._places:
            logins = self._logins
            try:
                return self._run_once(work)
            except _LOST:
                self._drop(logins)
            except cryptoki.PKCS11Error as error:
                raise explain(error) from error
            try:
                return self._run_once(work)
            except cryptoki.PKCS11Error as error:
                raise explain(error) from error

    def _run_once(self, work: Callable[[Connection], T]) -> T:
        logins, connection = self._take()
        try:
            result = work(connection)
        except BaseException:
            connection.close()  # whatever was begun in it ends with it
            raise
        with self._lock:
            if logins == self._logins:
                self._free.append(connection)
                return result
        connection.close()
        return result

    def _take(self) -> tuple[int, Connection]:
        with self._lock:
            if self._login is None:
                self._connect()
            if self._free:
                return self._logins, self._free.pop()
            return self._logins, Connection(self._token.open())

    def _drop(self, logins: int) -> None:
        """Forget all sessions, unless another thread has done so since login number `logins`."""
        with self._lock:
            # One key that always fails must not cost the others their sessions again and again.
            if logins != self._logins or time.monotonic() < self._dropped_at + _PAUSE_SECONDS:
                return
            self._logins += 1
            self._dropped_at = time.monotonic()
            for connection in self._free:
                connection.close()
            self._free.clear()
            if self._login is not None:
                self._login.close()
            self._login = None

    def _connect(self) -> None:
        if self._trouble is not None and time.monotonic() < self._trouble_until:
            # Those who waited for the lock meanwhile are not made to wait for the same failure again.
            raise Trouble(self._trouble.what, self._trouble.todo, final=self._trouble.final)
        try:
            self._token = _find_token(self._library, self._reference)
            self._login = Connection(_log_in(self._token, self._pin))
        except (cryptoki.PKCS11Error, Trouble) as error:
            trouble = error if isinstance(error, Trouble) else explain(error)
            self._trouble = trouble
            self._trouble_until = math.inf if trouble.final else time.monotonic() + _PAUSE_SECONDS
            raise trouble from error
        self._trouble = None


def _find_token(library: _Library, reference: Reference) -> Any:
    found = []
    failure: cryptoki.PKCS11Error | None = None
    for slot in library.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except cryptoki.PKCS11Error as error:
            failure = error  # another token may be broken, as long as ours is found
            continue
        serial = token.serial.decode(errors="replace").rstrip("\0 ")
        if reference.token in (None, token.label) and reference.serial in (None, serial):
            found.append(token)
    if not found:
        also = f"; of one token it told nothing but {type(failure).__name__}" if failure else ""
        raise Trouble(
            f"the HSM has no such token ({reference}){also}",
            "Correct token and serial of the URI; if it is another HSM, module-path too",
        )
    if len(found) > 1:
        raise Trouble(
            f"the HSM has several such tokens ({reference})", "Add serial=NUMBER to the URI"
        )
    return found[0]


def _log_in(token: Any, pin: str | None) -> Any:
    if pin is None:
        return token.open()
    if token.flags & cryptoki.TokenFlag.USER_PIN_FINAL_TRY:
        raise Trouble(
            "one more wrong PIN would lock the token, so this one was not tried",
            "Log in once with the HSM's own tool and the right PIN, and correct the PIN file",
            final=True,
        )
    try:
        return token.open(user_pin=pin)
    except cryptoki.UserAlreadyLoggedIn:
        return token.open()  # by another session of this process; a login is the whole process's


_registry: Final = threading.Lock()
_libraries: Final[dict[Path, _Library]] = {}
_tokens: Final[dict[tuple[Path, str | None, str | None], Token]] = {}


def logged_in_token(reference: Reference) -> Token:
    pin = read_pin(reference.pin_path) if reference.pin_path is not None else None
    place = (reference.module_path, reference.token, reference.serial)
    with _registry:
        token = _tokens.get(place)
        if token is None:
            token = Token(_library(reference.module_path), reference, pin)
            token.run(lambda _: None)  # remembered only if it can be logged in to
            _tokens[place] = token
        elif not token.has_pin(pin):
            raise Trouble(
                "another key of this token was loaded with another PIN",
                "Give the same pin-source in all key files that name the token",
            )
        return token


def _library(path: Path) -> _Library:
    named, path = path, path.resolve()
    if path not in _libraries:
        if not path.is_file():
            raise Trouble(
                f"there is no PKCS#11 library {path}",
                "Correct module-path, or install the HSM's software",
            )
        # A key file is the service's, and names the code that is loaded here. It could become root again, too.
        if 0 in (os.getuid(), os.geteuid()) and not is_roots_alone(named):
            raise Trouble(
                f"{named} belongs to others than root, who does not run it",
                "Run this as the user of the service; or give the library, and its directory, to root",
            )
        try:
            library = _Library(str(path))
        except cryptoki.PKCS11Error as error:
            raise Trouble(
                f"{path} is not a PKCS#11 library that can be loaded here: {error}",
                "Give the library from the HSM's vendor, for this kind of machine",
            ) from error
        # One reference for ever: at the interpreter's end its classes go first, and freeing it would fail.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))
        _libraries[path] = library
    return _libraries[path]
