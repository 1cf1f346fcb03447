"""A streamed answer as its client may see it: the upstream's events as they came, while a copy of each is folded."""

from proxy.errors import UpstreamBroken, UpstreamError
from proxy.upstream import wire
from proxy.upstream.fold import Fold

DONE = b"data: [DONE]\n\n"


class Relay:
    """Takes the upstream's bytes, gives the client's: whole events, joined as they arrive, never [DONE], which the
    caller owes once the turn is stored. The usage chunk that only the proxy asked for stays here.

    Intentional: a plain object that the turn's own loop drives. A generator here is one more wake-up for each chunk.
    """

    def __init__(self, fold: Fold, wants_usage: bool, limit: int) -> None:
        self._fold = fold
        self._wants_usage = wants_usage
        self._left = limit
        self._splitter = wire.Splitter()
        self._failure: UpstreamError | None = None
        self._done = False

    @property
    def over(self) -> bool:
        """Whether nothing more is to be taken: [DONE] came, or something broke."""
        return self._done or self._failure is not None

    def take(self, data: bytes) -> bytes:
        """What `data` completes. What precedes a broken event is given out first; `check` then raises."""
        self._left -= len(data)
        if self._left < 0:
            self._failure = UpstreamBroken(
                "the upstream's answer is too long; raise limits.answer_mb", code="answer_too_large"
            )
            return b""
        out: list[bytes] = []
        try:
            for event in self._splitter.feed(data):
                payload = wire.payload(event)
                if payload == b"[DONE]":
                    self._done = True
                    break
                if payload is None or payload.startswith(b":"):
                    continue  # a comment; some servers write theirs as data
                usage_only = self._fold.add(payload)
                if self._wants_usage or not usage_only:
                    out.append(wire.relayable(event) or b"")
        except UpstreamError as failure:
            self._failure = failure
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> bytes:
        """What the end of the stream completes: an event without its blank line."""
        return b"" if self.over or not self._splitter.rest else self.take(b"\n\n")

    def check(self) -> None:
        """Raises what broke; UpstreamBroken also when the stream ended before [DONE] and before each choice had its
        finish_reason, or held no answer at all."""
        if self._failure is not None:
            raise self._failure
        if not (self._fold.finished or (self._done and self._fold.begun)):
            raise UpstreamBroken("the upstream's stream ended before the answer was finished; send the message again")
