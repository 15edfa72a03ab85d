"""Bounds what results take on disk: who does not read a result loses it, so that others can have theirs."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import math
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

import structlog

from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock
from easyanim_server.domain.errors import DiskFull, EasyAnimError, GenerationFailed, ResultDropped, ResultExpired
from easyanim_server.domain.events import Chunk
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.artifacts import Artifacts
from easyanim_server.jobs.spool import Spool

log = structlog.get_logger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
STILL_SECONDS = 1.0
"""A reader that took nothing for so long stands still: where room is short, its result may be dropped."""
PATIENCE_SECONDS = 5.0
"""How long a chunk waits where room is short and every reader reads: some of them are done soon."""
RETRY_SECONDS = 0.05
LOOK_SECONDS = 1.0
"""How often free space and the age of unread bytes are looked at."""
NETWORK_BITS = 64
"""Of an IPv6 address: what one subscriber has, and may take any address of."""


def caller_of(peer: str) -> str:
    """Whose results are counted together: gRPC's name of a peer without its port.

    Args:
        peer: Such as ``ipv4:10.0.0.7:51234``, ``ipv6:%5B::1%5D:51234`` or ``unix:``. All callers over unix sockets are
            one, and so are all of one IPv6 network of 64 bits.
    """
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"{kind}:{host}"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"ipv6:{ipaddress.ip_network((address, NETWORK_BITS), strict=False).network_address}"
        address = address.ipv4_mapped
    return f"ipv4:{address}"


@dataclass(frozen=True)
class Limits:
    """What results may take."""

    caller_bytes: float = math.inf
    total_bytes: float = math.inf
    unread_seconds: float = math.inf
    reserve_bytes: int = 0


class Short(NamedTuple):
    """Why there is no room for more bytes."""

    reason: EasyAnimError
    candidates: Collection[JobRecord]
    """Whose bytes it would help to drop."""


class Quotas:
    """Finds room for results by dropping those that are not read. Used from one event loop."""

    def __init__(
        self,
        limits: Limits,
        spools: Mapping[JobRecord, Spool],
        artifacts: Artifacts,
        drop: Callable[[JobRecord, EasyAnimError], Awaitable[Future[None]]],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare.

        Args:
            limits: See `Settings`.
            spools: Of all jobs whose callers are there; as they are at each moment.
            artifacts: Asked for the room that it has.
            drop: Ends a job with an error, gives up its bytes and takes it out of `spools`. Returns a future that is
                done when the disk space is free.
            clock: The one that spools' times are on.
        """
        self._limits = limits
        self._spools = spools
        self._artifacts = artifacts
        self._drop = drop
        self._clock = clock
        self._free = math.inf
        """Of the disk, when it was last looked at."""
        self._reserve = 0

    @property
    def held_bytes(self) -> int:
        """Bytes on disk of all results. May be read from any thread."""
        return sum(spool.size for spool in tuple(self._spools.values()))

    def check_disk(self) -> None:
        """Refuse a new job where the disk is nearly full.

        Raises:
            DiskFull: less than the reserve is free.
        """
        if self._free < self._reserve:
            raise DiskFull(f"{self._free / 2**20:.0f} MiB of disk are free, and {self._reserve / 2**20:.0f} are kept")

    async def keep(self, record: JobRecord, spool: Spool, chunk: Chunk) -> EasyAnimError | None:
        """Keep the next bytes of a job, unless it ends meanwhile; drops results that are not read where that must be.

        Returns why the job must end, or None: `DiskFull` where all results are read and the disk is full of something
        else, `ResultDropped` for the same with a quota or a file that alone exceeds it, `GenerationFailed` where the
        disk fails.
        """
        try:
            await self._write(record, spool, chunk)
        except EasyAnimError as error:
            log.warning("no room for the file", job_id=record.job.id, reason=error.reason, error=str(error))
            return error
        except OSError as error:
            failure = GenerationFailed(uuid.uuid4().hex[:12])
            log.error("cannot keep the file", job_id=record.job.id, error_id=failure.error_id, error=repr(error))
            return failure
        return None

    async def watch(self) -> None:
        """Drop what is not read for too long, and what stands in the way of new jobs, until cancelled."""
        while True:
            await self._look()
            await self._clock.sleep(LOOK_SECONDS)

    async def _write(self, record: JobRecord, spool: Spool, chunk: Chunk) -> None:
        until = self._clock.now() + PATIENCE_SECONDS
        while not record.over:
            short = self._quota_exceeded(record, spool, len(chunk.data))
            if short is None:
                try:
                    return await spool.write(chunk)
                except OSError as error:
                    if error.errno not in FULL:
                        raise
                    short = Short(DiskFull("the disk is full"), tuple(self._spools))
            reason, candidates = short
            longest = min(self._unread(candidates), key=self._unread_since, default=None)
            if longest is not None and self._clock.now() - self._unread_since(longest) >= STILL_SECONDS:
                await self._drop_unread(longest, str(reason))
            elif not candidates or self._clock.now() >= until:
                raise reason
            else:
                await self._clock.sleep(RETRY_SECONDS)

    async def _look(self) -> None:
        now, limit = self._clock.now(), self._limits.unread_seconds
        for record in list(self._unread(self._spools)):
            if now - self._unread_since(record) > limit:
                await self._drop(record, ResultExpired(f"the file was not read for {limit:g} s, so it was dropped"))
        await self._measure()
        standing = [
            record for record in self._unread(self._spools) if now - self._unread_since(record) >= PATIENCE_SECONDS
        ]
        for record in sorted(standing, key=self._unread_since):
            if self._free >= self._reserve:
                break
            if record in self._spools:  # it was not released meanwhile
                await self._drop_unread(record, "the disk is nearly full")
                await self._measure()

    async def _measure(self) -> None:
        try:
            self._free, total = await self._artifacts.room()
        except OSError as error:  # what is written next tells who is to know
            log.error("the disk cannot be asked for its free space", error=repr(error))
            self._free = math.inf
        else:
            self._reserve = min(self._limits.reserve_bytes, total // 4)

    async def _drop_unread(self, record: JobRecord, why: str) -> None:
        freed = await self._drop(record, ResultDropped(f"the file was not read, and {why}, so it was dropped"))
        await asyncio.shield(asyncio.wrap_future(freed))  # a cancel must not leave the file open

    def _quota_exceeded(self, record: JobRecord, spool: Spool, count: int) -> Short | None:
        """Whether `count` more bytes are too many for the job."""
        limits, own = self._limits, spool.size + count
        callers = [other for other in self._spools if other.caller == record.caller]
        for name, limit, records in (
            ("result_caller_bytes", limits.caller_bytes, callers),
            ("result_total_bytes", limits.total_bytes, tuple(self._spools)),
        ):
            if own > limit:
                return Short(ResultDropped(f"the file is larger than {name}, {limit:.0f}"), ())
            if sum(self._spools[other].size for other in records) + count > limit:
                return Short(ResultDropped(f"files take more than {name}, {limit:.0f}"), records)
        return None

    def _unread(self, records: Iterable[JobRecord]) -> Iterable[JobRecord]:
        return (record for record in records if self._unread_since(record) < math.inf)

    def _unread_since(self, record: JobRecord) -> float:
        """When its reader last took a byte of those that there are; infinite where it has all, or has lost them."""
        spool = self._spools.get(record)
        since = None if spool is None else spool.unread_since
        return math.inf if since is None else since
