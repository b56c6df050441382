"""Where a scheduler is, the certificates that let a client in, and what goes wrong on the way. Needs no Dask."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_transunet.errors import FileProblem, InputError

if TYPE_CHECKING:
    from distributed import Security


INSTALL = 'pip install "napari-transunet[cluster]"'
NOT_NOW = (OSError, ValueError, RuntimeError, TimeoutError)
"""What Dask raises while a connection is lost."""


@dataclass(frozen=True)
class TLSFiles:
    """Files in PEM format: the authority that signed everybody's certificates, and this party's certificate and key.

    `key` may be None where the certificate's file holds the key too.
    """

    ca: Path
    cert: Path
    key: Path | None = None


def need_distributed(package: str = "distributed") -> None:
    """Refuse, with the command that installs it, where Dask is not here."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"Working on other processes and machines needs Dask; install it with {INSTALL}.")


def tls_files(ca: Path | None, cert: Path | None, key: Path | None) -> TLSFiles | None:
    """The files of three options, of which all are given or none."""
    if ca is None and cert is None and key is None:
        return None
    if ca is None or cert is None:
        raise InputError(
            "TLS needs --tls-ca-file and --tls-cert, and --tls-key unless the certificate holds it."
        )
    for path in (ca, cert, key):
        if path is not None and not path.is_file():
            raise FileProblem(f"There is no file {path}.")
    return TLSFiles(ca, cert, key)


def security_of(files: TLSFiles | None) -> Security | None:
    """Dask's settings for all three roles; None for connections without TLS."""
    if files is None:
        return None
    import ssl

    from distributed import Security

    cert, key = str(files.cert), str(files.key or files.cert)
    found = Security(
        require_encryption=True,
        tls_ca_file=str(files.ca),
        tls_client_cert=cert,
        tls_client_key=key,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
    )
    try:
        found.get_connection_args("client")
    except (ssl.SSLError, OSError) as error:
        raise InputError(
            f"The TLS files cannot be used ({error}); give a certificate, its key, and the authority that signed it."
        ) from error
    return found


@dataclass(frozen=True)
class ClusterAddress:
    """Where a scheduler is ("tcp://…" or "tls://…"), and the files that it lets this client in with."""

    address: str
    tls: TLSFiles | None = None


class ClusterProblem(InputError):
    """A cluster that cannot be used now; the work may go on elsewhere, or there later."""


class SchedulerUnreachable(ClusterProblem):
    """Nobody answers at the address, or it does not let this client in."""


class ConnectionLost(ClusterProblem):
    """The scheduler or the worker went away; what came stays."""
