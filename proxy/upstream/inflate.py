"""Bodies that come compressed although nobody asked for it. Pure: compressed bytes in, bounded pieces out."""

import zlib

from proxy.errors import UpstreamBroken

STEP = 64 * 1024
"""The most bytes one `step` makes: 64 KB of zeros are 80 bytes of gzip, so what is not yet wanted stays packed."""

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_RAW = -zlib.MAX_WBITS


class Inflate:
    """Decodes "gzip" (several members, too) and "deflate" (with zlib's header, or as some send it, without)."""

    def __init__(self, encoding: bytes) -> None:
        self._gzip = encoding != b"deflate"
        self._packed = b""
        self._member = None

    def feed(self, data: bytes) -> None:
        """Adds compressed bytes. Call it when `step` has nothing more, or the packed bytes pile up here."""
        self._packed += data

    def step(self) -> bytes:
        """At most STEP decoded bytes; b"" when more input is needed. Raises UpstreamBroken on damage."""
        out = b""
        while not out:
            if self._member is None:
                if not self._packed:
                    return b""
                zlib_header = self._gzip or self._packed[0] & 15 == 8
                self._member = zlib.decompressobj(_GZIP_OR_ZLIB if zlib_header else _RAW)
            try:
                out = self._member.decompress(self._packed, STEP)
            except zlib.error as exc:
                raise UpstreamBroken("the upstream sent a damaged compressed body") from exc
            if not self._member.eof:
                self._packed = self._member.unconsumed_tail
                return out  # also b"": zlib may hold output back only while it has some to give
            self._packed = self._member.unused_data
            self._member = None
        return out

    def end(self) -> None:
        """Call it at the end of the input. Raises UpstreamBroken if the stream was cut off."""
        if self._member is not None:
            raise UpstreamBroken("the upstream's compressed body ended too early")
