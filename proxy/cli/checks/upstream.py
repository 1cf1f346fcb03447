"""Each upstream: can it be reached, does it take the key, has it the models, does it stream and count."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import msgspec

from proxy.app import client_of
from proxy.cli.checks import credential, models, streaming
from proxy.cli.checks.advice import local, place
from proxy.cli.checks.finding import Finding, Site, State, cleaned, counted, explained
from proxy.cli.checks.running import aside
from proxy.cli.checks.streaming import NAME, Ask
from proxy.config import UpstreamConfig
from proxy.errors import UpstreamError, UpstreamRefused, UpstreamTimeout
from proxy.upstream.catalog import sizes_in
from proxy.upstream.exchange import read, refusal
from proxy.upstream.headers import upstream_headers
from proxy.upstream.protocol import Call, Headers, Upstream

LIMIT_S = 60.0
"""For all that is asked of one upstream; a model may have to be loaded first."""
LIST_BYTES = 32 << 20
SKEW_S = 60.0
SILENT = UpstreamTimeout("the TLS handshake was not answered in time; check base_url: http or https?")
"""Where a connection was made a moment before, and the client makes none."""
ANY = "default"
"""What is asked for where no model is known: servers of one model answer to any name."""
ABSENT = 3
"""Models that an upstream does not list and is asked for all the same, at the most."""
LISTS_NOT = (403, 404, 405, 501)
"""How servers say that GET /models is not for everybody, or that they have none."""


@dataclass(frozen=True)
class Asked:
    """An upstream under examination. `key`: what is sent as its key, which is never shown."""

    settings: UpstreamConfig
    site: Site
    client: Upstream
    key: str

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def headers(self) -> Headers:
        return upstream_headers(self.key.encode(), self.settings, {b"user-agent": b"session-proxy-doctor"})

    def finding(self, state: State, said: str, fix: str = "") -> Finding:
        return Finding(NAME, state, f"{self.name}: {cleaned(said, self.key)}", cleaned(fix, self.key))


@dataclass(frozen=True)
class Listed:
    """What GET /models gave. `names` None: no list. `skew_s`: how far its clock is ahead of ours, where it tells."""

    status: int = 0
    names: tuple[str, ...] | None = None
    sizes: dict[str, int] | None = None
    skew_s: float | None = None
    failure: UpstreamError | None = None


async def check(site: Site) -> Sequence[Finding]:
    """All upstreams at once."""
    found = await asyncio.gather(*(_within(site, upstream) for upstream in site.config.upstreams))
    return [finding for findings in found for finding in findings]


async def _within(site: Site, upstream: UpstreamConfig) -> list[Finding]:
    if site.offline and not local(upstream):
        return [Finding(NAME, "skipped", f"{upstream.name} ({place(upstream)}): not asked, --offline")]
    client = client_of(upstream)
    found: list[Finding] = []
    asked = Asked(upstream, site, client, credential.key(site, upstream))
    try:
        async with asyncio.timeout(LIMIT_S):
            await _examine(asked, found)
    except TimeoutError:
        said = f"not done after {LIMIT_S:g} s"
        found.append(asked.finding("failed", said, "look whether it is overloaded, or still loads its model"))
    finally:
        await client.aclose()
    return found


async def _examine(asked: Asked, found: list[Finding]) -> None:
    """Adds to `found` step by step: what was seen before a time limit ends it is told all the same."""
    unreachable = await _unreachable(asked)
    if unreachable is not None:
        found.append(unreachable)
        return
    listed = await _listed(asked)
    if listed.status == 404 and await _is_below(asked):
        fix = f"set its base_url to {place(asked.settings).rstrip('/')}/v1"
        found.append(asked.finding("failed", f"{place(asked.settings)} is reached; its API begins one step below", fix))
        return
    found += _reached(asked, listed)
    if found[-1].state == "failed":
        return
    if _keyless(asked):
        said = "its key, models and streams were not looked at: clients bring the key"
        fix = f"{credential.wanted(asked.site, asked.settings)} to have them looked at"
        found.append(asked.finding("skipped", said, fix))
        return
    named = models.configured(asked.site.config, asked.settings)
    model = await _answers(asked, models.to_try(list(named), listed.names), found)
    for name in models.absent(list(named), listed.names)[:ABSENT]:
        if name != model:
            found.append(await _unlisted(asked, name, named[name], listed.names or ()))
    if model is not None:
        found.append(_context(asked, model, listed.sizes or {}))


# --- reached ---


async def _unreachable(asked: Asked) -> Finding | None:
    """Why its name leads nowhere, or nothing answers there.

    Asked here first: in the client's own thread a resolver that hangs would hold up the end of the process, and the
    client does not tell a connection that is not made from a TLS handshake that is not answered.
    """
    url = urlsplit(asked.settings.base_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    limit = asked.settings.connect_timeout_s
    fix = "check base_url and the DNS of this machine"
    try:
        async with asyncio.timeout(limit):
            await aside(lambda: socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as exc:
        if isinstance(exc, TimeoutError):
            return asked.finding("failed", f"its name {url.hostname} was not resolved within {limit:g} s", fix)
        return asked.finding("failed", f"its name {url.hostname} cannot be resolved", fix)
    try:
        async with asyncio.timeout(limit):
            _, writer = await asyncio.open_connection(url.hostname, port)
            writer.close()
    except TimeoutError:
        fix = "check host and port of base_url, and whether a firewall drops the packets"
        return asked.finding("failed", f"{place(asked.settings)}: no connection within {limit:g} s", fix)
    except OSError:
        return None  # the client tells it, in its own words
    return None


async def _listed(asked: Asked) -> Listed:
    try:
        answer = await asked.client.send(Call("GET", "/models", b"", asked.headers))
        headers = dict(answer.headers)
        skew = _skew(headers.get(b"date"), headers.get(b"age"), asked.site.now() / 1000)
        if answer.status >= 300:
            return Listed(answer.status, skew_s=skew, failure=await refusal(answer, own_key=False))
        try:
            names, sizes = _parsed(await read(answer, LIST_BYTES))
        finally:
            await answer.aclose()
    except UpstreamError as failure:
        return Listed(failure=SILENT if failure.message.startswith("no connection") else failure)
    except ValueError:
        return Listed(failure=UpstreamError("its api_key holds a line break; write it as one line"))
    return Listed(answer.status, names, sizes, skew)


async def _is_below(asked: Asked) -> bool:
    """Whether base_url lacks the /v1 at its end: the list of models, or the question for a key, is there."""
    try:
        answer = await asked.client.send(Call("GET", "/v1/models", b"", asked.headers))
        await answer.aclose()
    except UpstreamError:
        return False
    return answer.status in (200, 401)


def _parsed(body: bytes) -> tuple[tuple[str, ...] | None, dict[str, int]]:
    try:
        listed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, {}
    data = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(data, list):
        return None, {}
    found = (model.get("id") for model in data if isinstance(model, dict))
    return tuple(name for name in found if isinstance(name, str) and name.isprintable()), sizes_in(listed)


def _skew(date: bytes | None, age: bytes | None, now: float) -> float | None:
    """How many seconds a Date header is ahead of `now`; None where it tells nothing."""
    try:
        told = parsedate_to_datetime((date or b"").decode("latin-1")).timestamp()
        return told + int(age or b"0") - now
    except (TypeError, ValueError, OverflowError):
        return None


def _reached(asked: Asked, listed: Listed) -> list[Finding]:
    """What its answer to GET /models says; the last one tells whether to go on."""
    found = [] if listed.skew_s is None else _clock(asked, listed.skew_s)
    where = place(asked.settings)
    if listed.failure is not None and listed.status not in LISTS_NOT:
        return [*found, _refused(asked, listed.status, listed.failure)]
    if listed.failure is not None:
        fix = "check that base_url ends where /models follows, mostly in /v1; if it has no list, name the models to use"
        return [*found, asked.finding("warning", f"{where} is reached, and lists no models ({listed.status})", fix)]
    if listed.names is None:
        fix = "check base_url: it should lead to an OpenAI-compatible server, mostly in /v1"
        return [*found, asked.finding("warning", f"{where} is reached, and its list of models is none", fix)]
    key = "the key is accepted" if asked.key else "no key is sent"
    return [*found, asked.finding("ok", f"{where} is reached, {key}, {counted(len(listed.names), 'model')}")]


def _refused(asked: Asked, status: int, failure: UpstreamError) -> Finding:
    if status == 401 and _keyless(asked):
        return asked.finding("ok", f"{place(asked.settings)} is reached; it asks for a key, which each client brings")
    if status in (401, 403):
        return _unkeyed(asked, status)
    said, fix = explained(failure, "look into the log of that server, or try again later", asked.key)
    state: State = "warning" if status == 429 else "failed"
    return asked.finding(state, f"{place(asked.settings)}: {said}" + (f" ({status})" if status else ""), fix)


def _unkeyed(asked: Asked, status: int) -> Finding:
    if asked.site.config.auth.mode == "passthrough":
        fix = "put a key that works into OPENAI_API_KEY: doctor uses it where clients bring theirs"
    else:
        fix = f"set api_key of upstream {asked.name} (without an upstreams section: OPENAI_API_KEY) to a key that works"
    said = f"does not accept the key ({status})" if asked.key else f"asks for a key, and none is set ({status})"
    return asked.finding("failed", f"{place(asked.settings)} {said}", fix)


def _keyless(asked: Asked) -> bool:
    """Whether clients bring the key, and none is here to try."""
    return asked.site.config.auth.mode == "passthrough" and not asked.key


def _clock(asked: Asked, skew_s: float) -> list[Finding]:
    if abs(skew_s) <= SKEW_S:
        return []
    way = "behind" if skew_s > 0 else "ahead of"
    said = f"this machine's clock is {abs(skew_s):.0f} s {way} that of upstream {asked.name}"
    return [Finding("clock", "warning", said, "let the machine keep its time by NTP (timedatectl set-ntp true)")]


# --- answers ---


async def _answers(asked: Asked, candidates: Sequence[str], found: list[Finding]) -> str | None:
    """The model that answered, if one did; what that showed is added to `found`."""
    failures: list[UpstreamError] = []
    for model in candidates or (ANY,):
        answer = await streaming.heard(_ask(asked), model)
        if answer.failure is None:
            found += streaming.judged(asked.name, model, answer, asked.settings.stream_usage)
            return model
        failures.append(answer.failure)
    if len(candidates) == 1 or _nothing_there(failures[0]):
        found.append(_failed(asked, candidates[0] if candidates else ANY, failures[0]))
    else:
        tried = f"none of {', '.join(candidates)} answers in a chat" if candidates else "no model is known to try"
        fix = "name one that answers in models.default or in models of this upstream"
        found.append(asked.finding("warning", f"{tried}: streaming and usage were not checked", fix))
    return None


def _ask(asked: Asked) -> Ask:
    return Ask(asked.client, asked.headers, asked.settings.stream_usage)


def _failed(asked: Asked, model: str, failure: UpstreamError) -> Finding:
    if failure.status in (401, 403):
        return _unkeyed(asked, failure.status)
    if _nothing_there(failure):
        said = f"{place(asked.settings)} has no /chat/completions ({failure.status})"
        return asked.finding("failed", said, "check base_url: it ends where /chat/completions follows, mostly in /v1")
    said, fix = explained(failure, "ask it for that model without the proxy; its log may say more", asked.key)
    state: State = "warning" if failure.status == 429 else "failed"
    return asked.finding(state, f"{model} gave no answer: {said} ({failure.status})", fix)


def _nothing_there(failure: UpstreamError) -> bool:
    """Whether an answer is a web server's own, not a chat API's that says what is wrong."""
    return isinstance(failure, UpstreamRefused) and failure.status in (404, 405) and failure.body is None


async def _unlisted(asked: Asked, model: str, where: str, listed: Sequence[str]) -> Finding:
    """A model that the configuration names and the upstream does not list; many answer to it all the same."""
    answer = await streaming.heard(_ask(asked), model)
    if answer.failure is None:
        return asked.finding("ok", f"{model} ({where}) is not listed, and answers")
    fix = f"correct it in {where}; it lists {models.nearest(model, listed)}"
    said, _ = explained(answer.failure, "", asked.key)
    return asked.finding("failed", f"has no model {model} ({where}): {said}", fix)


def _context(asked: Asked, model: str, sizes: dict[str, int]) -> Finding:
    """How many tokens the model takes, by the configuration or by the upstream's list."""
    told = sizes.get(model) or (next(iter(sizes.values())) if len(sizes) == 1 else None)
    aliased = (one.context_tokens for one in asked.site.config.models.values() if one.model == model)
    size = next(filter(None, aliased), None) or asked.settings.context_tokens or told
    budget = asked.site.config.context.token_budget
    if size is not None:
        return asked.finding("ok", f"{model} takes {size:,} tokens")
    if budget is not None:
        return asked.finding(
            "ok", f"it does not say how many tokens {model} takes; context.token_budget {budget:,} holds"
        )
    said = f"it does not say how many tokens {model} takes: nothing is left out before it refuses a request"
    return asked.finding("warning", said, f"set context_tokens of upstream {asked.name}, or context.token_budget")
