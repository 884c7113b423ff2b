"""The CA's directory of files, changed as a whole: at every moment it is the old CA or the new one.

    making/         what is being made; of no account, thrown away by the next command
    next.ACTION/    made and decided: each of its files counts in place of the one of that name beside it

Renaming making/ to next.ACTION/ is the moment of change. Afterwards its files only move to their places: first the
copies of what they replace, so that nothing is lost, then they themselves. A process that dies in between leaves a
directory that reads as the new CA, and the next command moves the rest.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.files import (
    give_like,
    make_directory,
    read_bounded,
    synchronize,
    write_new,
)
from ra_gateway.keys import (
    HSM_SCHEME,
    load_private_key,
    new_key,
    write_certificates,
    write_private_key,
)
from ra_gateway.owners import as_ourselves, as_owner

SETTING: Final = "ca.directory_path"

MAKING: Final = "making"
_NEXT: Final = "next."

_READ_BY_ALL: Final = "issuing.key"
"""A file that every service of a CA has to read, so that its owner is whom the CA runs as."""


class CAFiles:
    """The files of a CA in its directory, whatever a change has left undone.

    Args:
        path: The directory.
        overlay: Directory whose files count first; by default what was decided and not yet moved.
    """

    def __init__(self, path: Path, overlay: Path | None = None) -> None:
        self.path = path
        self._overlay = overlay or _decided(path)

    def find(self, name: str) -> Path:
        """Return the path of a file (or where it belongs) by its name relative to the directory."""
        if self._overlay is not None and (self._overlay / name).exists():
            return self._overlay / name
        return self.path / name

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        return self.find(name).exists()

    def names(self, suffix: str) -> list[str]:
        """Return the names, relative to the directory, of all files that end so; of what is only being made, none."""
        found = (path.relative_to(self.path) for path in self.path.rglob(f"*{suffix}"))
        return sorted(str(name) for name in found if name.parts[0] != MAKING)

    def numbered(self, name: str) -> list[str]:
        """Return names of numbered subdirectories, such as "retired/2", newest first."""
        found: set[int] = set()
        for base in (self.path, self._overlay):
            if base is not None and (base / name).is_dir():
                found.update(int(item.name) for item in (base / name).iterdir() if _is_number(item))
        return [f"{name}/{number}" for number in sorted(found, reverse=True)]

    def next_number(self, name: str) -> str:
        """Return the name of the next numbered subdirectory."""
        newest = next(iter(self.numbered(name)), "0")
        return f"{name}/{int(newest.rpartition('/')[2]) + 1}"

    def state(self) -> tuple[object, ...]:
        """Return a value that changes when a file with keys or certificates is written or moved."""
        found: list[tuple[str, int, int]] = []
        for base, directories, names in os.walk(self.path):
            if MAKING in directories:
                directories.remove(MAKING)
            for path in (Path(base, name) for name in names if name.endswith((".pem", ".key"))):
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    found.append((str(path), facts.st_ino, facts.st_mtime_ns))
        return tuple(sorted(found))


def _is_number(path: Path) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,8}", path.name) is not None


def _decided(directory: Path) -> Path | None:
    return next((path for path in directory.glob(f"{_NEXT}*") if path.is_dir()), None)


class Change:
    """New files of a CA, made beside the ones in use.

    Args:
        files: As they are.
        action: Name of the change.
        archive: Subdirectory that gets what is replaced; "" if nothing may be.
        key_uris: Name of a key file without ".key" to the URI of the key in an HSM that it shall name.
        password: Encrypts the keys that are in files.
    """

    def __init__(
        self,
        files: CAFiles,
        action: str,
        archive: str,
        key_uris: Mapping[str, str],
        password: bytes | None,
    ) -> None:
        self.files = files
        self.archive = archive
        self.password = password
        self.made: list[str] = []
        self._action = action
        self._path = files.path / MAKING
        # A PIN file's relative path starts where the key file is, and key files move.
        self._key_uris = {
            name: _with_absolute_pin(uri, files.path) for name, uri in key_uris.items()
        }

    @property
    def result(self) -> CAFiles:
        """The files as they are going to be."""
        return CAFiles(self.files.path, self._path)

    def new_key(self, name: str, kind: str, password: bytes | None = None) -> Any:
        """Make the private key of NAME.key, in the file or in the HSM.

        Args:
            password: Encrypts the file, by default that of the change.

        Raises:
            ConfigError: As `ra_gateway.keys.new_key`.
        """
        path = self._place(f"{name}.key")
        uri = self._key_uris.get(name)
        if path.exists():  # left by an attempt that came to its HSM and no further
            try:
                return load_private_key(path, None, str(path))
            except ConfigError:
                path.unlink()
        return new_key(path, kind, password=password or self.password, uri=uri)

    def import_key(self, name: str, source: Path, private_key: Any) -> None:
        """Write a key that exists to NAME.key.

        Args:
            source: The file it came from; if that names a key in an HSM, so does the new one.
        """
        target = self._place(f"{name}.key")
        with as_ourselves():
            octets = read_bounded(source)
        if octets.startswith(HSM_SCHEME):
            _write_reference(target, octets, source.parent)
        else:
            write_private_key(target, private_key, self.password)

    def write(self, name: str, certificates: Iterable[Certificate]) -> None:
        """Write certificates to NAME.pem."""
        write_certificates(self._place(f"{name}.pem"), certificates)

    def write_octets(self, name: str, octets: bytes) -> None:
        """Write a file that all may read."""
        write_new(self._place(name), octets, 0o644)

    def keep(self) -> None:
        """Copy what is going to be replaced into the archive; from then on `result` has it there.

        Raises:
            ConfigError: Nothing may be replaced.
        """
        for name in self.made:
            self._keep(name)

    def commit(self) -> None:
        """Let the new files count: from one moment to the other, and for good.

        Raises:
            ConfigError: A file that may not be replaced is in the way, or a key was named that is not made.
        """
        unused = [name for name in self._key_uris if f"{name}.key" not in self.made]
        if unused:
            raise ConfigError(
                [
                    Problem(name, "no key of this name is made now", "Leave out its URI")
                    for name in unused
                ]
            )
        self.keep()
        self._give()
        _synchronize_all(self._path)
        os.rename(self._path, self.files.path / f"{_NEXT}{self._action}")
        synchronize(self.files.path)
        finish(self.files.path)

    def _give(self) -> None:
        """Where root makes the change, leave to the CA's user what the CA is to read."""
        usual = self.files.path / _READ_BY_ALL
        for base, directories, names in os.walk(self._path):
            for path in (Path(base, name) for name in (*directories, *names)):
                name = path.relative_to(self._path)
                if self.archive and name.is_relative_to(self.archive):
                    name = name.relative_to(self.archive)  # a copy of what is replaced
                like = self.files.path / name
                if path.is_file() and like.is_file():
                    give_like(path, like, mode=True)
                elif usual.exists():
                    give_like(path, usual)

    def _place(self, name: str) -> Path:
        if name not in self.made:
            self.made.append(name)
        path = self._path / name
        make_directory(path.parent)
        return path

    def _keep(self, name: str) -> None:
        old = self.files.path / name
        if not old.exists():
            return
        if not self.archive:
            require_absent([old])
        kept = self._path / self.archive / name
        if not kept.exists():
            make_directory(kept.parent)
            try:
                _copy(old, kept)
            except (
                PermissionError
            ) as error:  # put there by root, in a directory that is another user's
                raise ConfigError.of(
                    str(old),
                    "cannot be kept: whoever has the directory may not read it",
                    f"Run: chown --reference={self.files.path} {old}; the root's key can stay elsewhere instead, named "
                    "by --root-key",
                ) from error

    def discard(self) -> None:
        """Remove what was made, but for the names of keys that are in an HSM now and wanted there."""
        if not self._path.exists():
            return
        wanted = {
            self._path / f"{name}.key": f"{uri}\n".encode() for name, uri in self._key_uris.items()
        }
        for base, directories, names in os.walk(self._path, topdown=False):
            for path in (Path(base, name) for name in names):
                if path not in wanted or read_bounded(path) != wanted[path]:
                    path.unlink()
            for name in directories:
                with suppress(OSError):  # not empty
                    Path(base, name).rmdir()
        with suppress(OSError):
            self._path.rmdir()


@contextmanager
def changing(
    directory: Path,
    action: str,
    *,
    archive: str = "",
    key_uris: Mapping[str, str] | None = None,
    password: bytes | None = None,
) -> Iterator[Change | None]:
    """Change the files of a CA: all of them with `Change.commit`, or none.

    Args:
        directory: Made if need be.
        action: Name of the command.
        archive: Name of the numbered subdirectories that get what is replaced; "" if nothing may be.

    Yields:
        The change to fill; None if an interrupted one of the same action was finished just now, and nothing is
        left to do.

    Raises:
        ConfigError: Another command is at work here, or files cannot be written.
    """
    is_new = not directory.exists()
    try:
        make_directory(directory)
        # What is moved and removed here by its path, others could lead elsewhere.
        with as_owner(directory), _locked(directory):
            if finish(directory) == action:
                yield None
                return
            files = CAFiles(directory)
            target = files.next_number(archive) if archive else ""
            change = Change(files, action, target, key_uris or {}, password)
            change.discard()
            try:
                yield change
            except Exception:
                change.discard()
                raise
            change.discard()
    except Exception as error:
        if is_new:
            with suppress(OSError):  # something else is in it
                directory.rmdir()
        if not isinstance(error, OSError):
            raise
        raise ConfigError.of(
            str(directory),
            f"{error.filename or directory} cannot be written: {error.strerror or error}",
            "Choose a directory that can be written to",
        ) from error


def finish(directory: Path) -> str:
    """Move the files of a change that was decided to their places; returns its action, "" if there is none."""
    decided = _decided(directory)
    if decided is None:
        return ""
    _move(decided, directory)
    decided.rmdir()
    synchronize(directory)
    return decided.name.removeprefix(_NEXT)


def _move(source: Path, target: Path) -> None:
    # Directories first: what is about to be replaced is kept in one of them.
    for item in sorted(source.iterdir(), key=lambda path: (path.is_file(), path.name)):
        place = target / item.name
        if item.is_dir() and place.exists():
            _move(item, place)
            item.rmdir()
        else:
            item.replace(place)
    synchronize(target)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError.of(
                str(directory),
                "another command is changing this CA",
                "Wait until it is done, then try again",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    octets = read_bounded(source)
    if octets.startswith(HSM_SCHEME):
        _write_reference(target, octets, source.parent)
    else:
        # A key that others could read is not one that they may read here, too.
        write_new(target, octets, 0o600 if source.suffix == ".key" else 0o644)


def _write_reference(target: Path, octets: bytes, start: Path) -> None:
    uri = octets.decode("ascii", "replace").rstrip()
    write_new(target, f"{_with_absolute_pin(uri, start)}\n".encode())


def _with_absolute_pin(uri: str, directory: Path) -> str:
    start = quote(str(directory.absolute()))
    return re.sub(r"(?<=[?&]pin-source=file:)(?!/)", lambda _: f"{start}/", uri)


def _synchronize_all(directory: Path) -> None:
    """Write all of a directory to the disk."""
    for base, _, names in os.walk(directory):
        for name in names:
            synchronize(Path(base, name))
        synchronize(Path(base))


def require_absent(paths: Iterable[Path]) -> None:
    """Make sure that files do not exist.

    Raises:
        ConfigError: Some do; all of them are named.
    """
    problems = [
        Problem(
            str(path), "exists already", "Move it away, or choose another directory or file name"
        )
        for path in paths
        if path.exists()
    ]
    if problems:
        raise ConfigError(problems)
