"""Names in Kubernetes and Azure from those of Pulumi's resources, which may be any text: pure.

What is valid stays as it is. Else a hash of the whole is part of the name, so that two never become one.
"""

from __future__ import annotations

import hashlib
import re

# Azure adds names up: MC_<resource group>_<cluster>_<region> has at most 80, of which the regions take 18, and Pulumi
# adds 8 to those of group and cluster. All other limits (DNS prefix 54, networks 64, workspaces 63) are wider.
AZURE_LENGTH = 20
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_HASH = 6
_SHARE_LENGTH = 63


def label(name: str, most: int) -> str:
    """Lower-case letters, digits and single ``-``, a letter first and none of ``-`` last, at most ``most`` of them."""
    if _LABEL.fullmatch(name) and len(name) <= most and "--" not in name:
        return name
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789") or "x"
    return f"{plain[: most - _HASH - 1].rstrip('-')}-{_hash(name, _HASH)}"


def plain_name(name: str, what: str) -> str:
    """A name that stays within letters and digits, and short: Pulumi adds 8, and a storage account takes 24 in all."""
    short = re.sub(r"[^a-z0-9]", "", name.lower())[:6]
    return f"{short}{_hash(name, 4)}{what[:6]}"


def share(namespace: str) -> str:
    """The file share or blob container of a namespace's runs: no two ``-`` in a row, at most 63 in all."""
    return f"runs-{label(namespace, _SHARE_LENGTH - len('runs-'))}"


def _hash(name: str, length: int) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:length]
