"""Source directories: their manifest, and private copies of them."""

from __future__ import annotations

import os
import shutil
import tempfile

from pulumi_tfjobs.errors import InputProblem, InvalidInputs, StoreError
from pulumi_tfjobs.spec.model import SourceManifest
from pulumi_tfjobs.store.files import make_folder, sync_folder
from pulumi_tfjobs.store.hashing import digest_of, digest_of_link, hash_file
from pulumi_tfjobs.store.limits import warnings_of
from pulumi_tfjobs.store.scanning import scan

__all__ = ["check_out", "digest_of", "hash_file", "scan", "snapshot", "warnings_of"]


def snapshot(manifest: SourceManifest, sources: str) -> str:
    """Copy the source into the content-addressed store, once; returns the copy's folder.

    Raises InvalidInputs where the content is no longer what was hashed.
    """
    destination = os.path.join(sources, manifest.digest)
    if os.path.isdir(destination):
        return destination
    temporary = _temporary_folder(sources)
    try:
        _copy(manifest, manifest.root, temporary)
        try:
            os.rename(temporary, destination)
        except OSError:
            if not os.path.isdir(destination):  # somebody else was first: the same content
                raise
            shutil.rmtree(temporary)
        sync_folder(sources)
    except (_Changed, FileNotFoundError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        what = f"{error.filename} was removed" if isinstance(error, FileNotFoundError) else str(error)
        raise InvalidInputs(
            [
                InputProblem(
                    "sourceDirectory",
                    f"{what} while it was being copied",
                    "a source that stays the same from preview to launch",
                    "run `pulumi up` again",
                )
            ]
        ) from None
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(f"the source could not be copied to {sources}: {error}") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return destination


def _temporary_folder(sources: str) -> str:
    try:
        make_folder(sources)
        return tempfile.mkdtemp(prefix=".copying-", dir=sources)
    except OSError as error:
        raise StoreError(
            f"the source cannot be copied to {sources} ({error.strerror}). Make the folder writable and free disk "
            "space, or choose another store with TFJOBS_HOME"
        ) from None


def check_out(manifest: SourceManifest, snapshot_folder: str, destination: str) -> None:
    """Make ``destination`` a private, writable copy of a snapshot. A half-made copy from before is replaced.

    Raises StoreError, also where the snapshot is not what its name says; it is then removed, to be made again.
    """
    try:
        if os.path.isdir(destination):
            shutil.rmtree(destination)
        make_folder(destination)
        _copy(manifest, snapshot_folder, destination)
    except (_Changed, FileNotFoundError) as error:
        shutil.rmtree(snapshot_folder, ignore_errors=True)
        raise StoreError(
            f"the kept copy of the source is damaged ({snapshot_folder}: {error}). It was removed; run `pulumi up` "
            "again, which makes it anew"
        ) from None
    except OSError as error:
        raise StoreError(f"the source could not be copied to {destination}: {error}") from None


class _Changed(Exception):
    """A copied file is not what the manifest says."""


def _copy(manifest: SourceManifest, root: str, destination: str) -> None:
    for file in manifest.files:
        origin = os.path.join(root, file.path)
        copy = os.path.join(destination, file.path)
        make_folder(os.path.dirname(copy))
        if file.mode == "l":
            target = os.readlink(origin)
            if digest_of_link(target) != file.digest:
                raise _Changed(f"{file.path} changed")
            os.symlink(target, copy)
            continue
        shutil.copyfile(origin, copy)
        os.chmod(copy, 0o700 if file.mode == "x" else 0o600)
        if hash_file(copy) != file.digest:
            raise _Changed(f"{file.path} changed")
