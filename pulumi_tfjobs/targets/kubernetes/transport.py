"""The way to a Kubernetes API: a login that is renewed, tries that are repeated, streams.

What is asked, and what the answers mean, is in ``client.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NamedTuple

from typing_extensions import Self

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.credentials import Login, Source, log_in, source_of
from pulumi_tfjobs.targets.kubernetes.failures import Asked, Gone, Later, refusal, status_of
from pulumi_tfjobs.targets.kubernetes.loops import of_this_loop
from pulumi_tfjobs.targets.kubernetes.retrying import PATIENT_SECONDS, QUESTION_SECONDS, Patience, retry_after
from pulumi_tfjobs.targets.kubernetes.sharing import in_daemon

Query = Sequence[tuple[str, str]]

AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_CONNECT_SECONDS = 5.0
# One try of a read. A change may have to wait for webhooks, which have 10 s each, and is not to be cut off.
_READ_SECONDS = 12.0
_CHANGE_SECONDS = 35.0
# Questions at once of one connection; streams are not counted.
_AT_ONCE = 32
_LINGER_SECONDS = 60.0
_RENEW_EARLY_SECONDS = 30.0
_RENEW_AT_MOST_EVERY_SECONDS = 5.0


class Answer(NamedTuple):
    """``body``: as it came; :meth:`json` reads it."""

    status: int
    body: bytes

    def json(self) -> Any:
        """What the body says. Raises ValueError."""
        return json.loads(self.body)


class Transport:
    """A way to the API server that all who have the same credentials share within an event loop.

    ``async with await Connection.open(options) as connection``. It stays open for a minute after the last one has
    closed it, so that questions in a row log in once. ``server`` is the API's address; ``namespace`` that of the
    options, else the context's, else ``default``.
    """

    def __init__(self, source: Source, there: dict[Hashable, Any]) -> None:
        self._source = source
        self._there = there
        self._users = 0
        self._session: _Session | None = None
        self._logging_in = asyncio.Lock()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._lingering: asyncio.TimerHandle | None = None
        self._ending = False
        self._clock: float | None = None

    @classmethod
    async def open(cls, options: Any) -> Self:
        """The connection for a target's options. Raises TargetUnavailable where no credentials are to be had; the
        server is not asked yet."""
        source = source_of(options)
        there = of_this_loop()
        connection: Self | None = there.get(source)
        if connection is None:
            connection = there[source] = cls(source, there)
        connection._users += 1
        if connection._lingering is not None:
            connection._lingering.cancel()
            connection._lingering = None
        try:
            await connection._live()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        self._users -= 1
        if self._users:
            return
        if self._session is None or self._ending:
            await self._hang_up()
        else:
            self._lingering = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._linger_no_longer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def key(self) -> Source:
        """Whom it asks, as whom: the same for connections of other event loops with the same credentials."""
        return self._source

    @property
    def server(self) -> str:
        assert self._session is not None, "opened"
        return self._session.login.server

    @property
    def namespace(self) -> str:
        assert self._session is not None, "opened"
        return self._session.login.namespace

    def now(self) -> float:
        """The time at the cluster, in seconds since the epoch, to about a second: what objects say of times is by its
        clock, which need not be this machine's."""
        return time.time() if self._clock is None else self._clock + time.monotonic()

    def _set_clock(self, date: str | None) -> None:
        with contextlib.suppress(ValueError, TypeError):
            self._clock = parsedate_to_datetime(date or "").timestamp() - time.monotonic()

    async def api_client(self) -> Any:
        """The official client behind it (``kubernetes.aio.client.ApiClient``), logged in; not to be closed."""
        return (await self._live()).login.client

    @contextlib.asynccontextmanager
    async def stream(
        self, asked: Asked, path: str, query: Query, *, quiet: float | None = None, most: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The answer to a GET in chunks as they come. Taken for cut off after ``quiet`` seconds without one, or after
        ``most`` in all. Not asked again; raises Unreadable, Gone (410), TargetUnavailable, also while it is read."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=most, sock_connect=_CONNECT_SECONDS, sock_read=quiet if quiet is not None else most
        )
        async with await self._live() as session:
            with self._telling(asked):
                response = await session.send("GET", path, query, None, {"Accept": "*/*"}, timeout)
                self._set_clock(response.headers.get("Date"))
                try:
                    if response.status == 410:
                        raise Gone
                    if response.status >= 400:
                        body = await asyncio.wait_for(response.content.read(1 << 16), _READ_SECONDS)
                        if response.status == 401:
                            await self._renew(session)
                        if response.status == 401 or response.status in AGAIN:
                            why = f"HTTP status {response.status}, {status_of(body).get('message')}"
                            raise Later(f"could not {asked}: {why}", response.status)
                        raise refusal(asked, self.server, response.status, status_of(body))
                    yield self._chunks(asked, response)
                finally:
                    response.close()

    async def _chunks(self, asked: Asked, response: Any) -> AsyncGenerator[bytes, None]:
        with self._telling(asked):
            async for chunk in response.content.iter_any():
                yield chunk

    @contextlib.contextmanager
    def _telling(self, asked: Asked) -> Iterator[None]:
        import aiohttp

        try:
            yield
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise TargetUnavailable(f"could not {asked}: {self.server}: {_why(error)}") from error

    # Below: one try, and the login

    async def _ask(
        self,
        asked: Asked,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        patient: bool | float = False,
    ) -> Answer:
        """The server's answer, whatever its status, but for those that say "later"."""
        import aiohttp

        patience = Patience(_seconds(patient))
        headers = {"Accept": accept, "Content-Type": content_type or "application/json"}
        longest = _READ_SECONDS if method == "GET" else _CHANGE_SECONDS
        renewed = False
        while True:
            wish = 0.0
            try:
                # The session only when it is our turn: by then that of before may be closed.
                async with self._slots, await self._live() as session:
                    timeout = aiohttp.ClientTimeout(
                        total=min(longest, max(1.0, patience.left)) if method == "GET" else longest,
                        sock_connect=min(_CONNECT_SECONDS, max(1.0, patience.left)),
                    )
                    response = await session.send(method, path, query, body, headers, timeout)
                    self._set_clock(response.headers.get("Date"))
                    try:
                        answer = Answer(response.status, await response.read())
                    finally:
                        response.release()
            except aiohttp.ClientConnectorCertificateError as error:
                raise TargetUnavailable(
                    f"the certificate of {self.server} was not accepted: {error.certificate_error}. To fix: check "
                    "certificate-authority-data in the kubeconfig, and that nothing between intercepts the connection"
                ) from error
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, TargetUnavailable) as error:
                trouble = str(error) if isinstance(error, TargetUnavailable) else _why(error)
            else:
                if answer.status == 401 and not renewed:
                    renewed = True
                    if await self._renew(session):
                        continue
                if answer.status not in AGAIN:
                    return answer
                wish = retry_after(response.headers.get("Retry-After"))
                trouble = f"HTTP status {answer.status}, {status_of(answer.body).get('message')}"
            if not await patience.pause(wish):
                raise self._unreachable(asked, trouble, patience)

    def _unreachable(self, asked: Asked, trouble: str, patience: Patience) -> TargetUnavailable:
        server = self._session.login.server if self._session else "of the kubeconfig"
        return TargetUnavailable(
            f"the Kubernetes API server {server} gave no answer ({trouble}) when asked to {asked}: "
            f"{patience.tries} {'try' if patience.tries == 1 else 'tries'} within {patience.seconds:.0f} s. This says "
            "nothing about the run. To fix: check that the cluster is up and can be reached from here with "
            "`kubectl get --raw /readyz`, then run the command again"
        )

    async def _live(self) -> _Session:
        """A session with credentials that are good for now."""
        session = self._session
        if session is None or session.stale:
            await self._renew(session)
        assert self._session is not None
        return self._session

    async def _renew(self, old: _Session | None) -> bool:
        """Log in again, unless somebody has since ``old``. False where that was done just now, and did not help."""
        async with self._logging_in:
            if self._session is not old:
                return True
            if old is not None and time.monotonic() - old.since < _RENEW_AT_MOST_EVERY_SECONDS:
                return False
            # Not cancelled with whoever waits: the thread goes on, and others wait for the same login.
            login = await asyncio.shield(in_daemon(lambda: log_in(self._source)))
            self._session = _Session(login)
            if old is not None:
                await old.retire()
            return True

    def _linger_no_longer(self) -> None:
        task = asyncio.get_running_loop().create_task(self._hang_up())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def end(self) -> None:
        """The event loop ends. Who still uses the connection has yet to close it, and it does not linger then."""
        self._ending = True
        await self._hang_up()

    async def _hang_up(self) -> None:
        if self._users:
            return
        if self._there.get(self._source) is self:
            del self._there[self._source]
        session, self._session = self._session, None
        if session is not None:
            await session.retire()


_closing: set[asyncio.Task[None]] = set()


class _Session:
    """The official client with one login. It is closed when another has taken its place and nobody uses it."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.since = time.monotonic()
        self._uses = 0
        self._retired = False

    @property
    def stale(self) -> bool:
        expires = self.login.expires
        if expires is None or time.time() < expires - _RENEW_EARLY_SECONDS:
            return False
        # A login that is good for seconds only is used until the server says no.
        return time.monotonic() - self.since >= _RENEW_AT_MOST_EVERY_SECONDS

    async def send(self, method: str, path: str, query: Query, body: Any, headers: dict[str, str], timeout: Any) -> Any:
        client = self.login.client
        _, url, headers, _, _ = await client.param_serialize(
            method, path, query_params=list(query), header_params=headers, auth_settings=["BearerToken"]
        )
        # Not by `call_api`: it hands a body over as text, and aiohttp warns of one of more than 1 MiB.
        rest, more = client.rest_client, {}
        if rest.pool_manager is None:
            from pulumi_tfjobs.targets.kubernetes.sockets import pool_of

            rest.pool_manager = pool_of(client)
        if client.configuration.tls_server_name:
            more["server_hostname"] = client.configuration.tls_server_name
        if rest.proxy:
            more.update(proxy=rest.proxy, proxy_headers=rest.proxy_headers)
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        return await rest.pool_manager.request(method, url, headers=headers, data=data, timeout=timeout, **more)

    async def __aenter__(self) -> Self:
        self._uses += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uses -= 1
        await self._close_unused()

    async def retire(self) -> None:
        self._retired = True
        await self._close_unused()

    async def _close_unused(self) -> None:
        if self._retired and not self._uses:
            await self.login.client.close()


def _seconds(patient: bool | float) -> float:
    if isinstance(patient, bool):
        return PATIENT_SECONDS if patient else QUESTION_SECONDS
    return patient


def _why(error: BaseException) -> str:
    import aiohttp

    if isinstance(error, asyncio.TimeoutError):
        return "it did not answer in time"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was cut off"
    return str(error) or type(error).__name__
