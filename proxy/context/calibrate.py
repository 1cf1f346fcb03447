"""How many tokens an upstream will count in a prompt, learnt from what it counted in others. Pure.

    counted = a * text + t * tools + b * messages + c + e * digits + f * wide, and d more without a system message

`text` and `tools` are raw o200k tokens; what a model's own tokenizer and template make of them is seven numbers for an
upstream and model: a for its vocabulary, t since some templates leave tools out, b for a message's frame, c for hidden
instructions, d for those that a template adds where the request has none; e since o200k takes three digits for a token
and many take one, f (for each byte that is not ASCII) since small vocabularies know few words of other languages. What
is left is a branch's own, and its last turn shows it: that `drift` corrects the next estimate.

Intentional: least squares over decayed sums, with the prior (a = t = 1, else 0) as samples that never fade. Unlike a
recursive gain it cannot wind up where nothing is learnt, and the state is sums, which any version can read. A count far
off (a cached prefix left out, an image) is left out; several in a row are a lasting change, and win.
"""

import math
from collections.abc import Sequence

import msgspec

from proxy.context.tokens import FRAME

FADE = 0.995
"""Of a sample's weight that is left after each later one: about 200 count."""
NOISE = 0.04
"""The relative error that is expected of a single count."""
PRIOR = (1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
TRUST = tuple([(NOISE / far) ** 2 for far in (0.3, 1.0, 2.0, 100.0, 20.0, 0.3, 0.3)])
"""The prior's weights, from how far a model's numbers usually are from it."""
BOUNDS = (
    (0.5, 4.0), (0.0, 4.0), (-8.0, 64.0), (-64.0, 20_000.0), (-64.0, 20_000.0), (0.0, 3.0), (0.0, 4.0),
)  # fmt: skip
SMALL = 64
"""Raw tokens below which an error counts as if there were as many: a token more of ten is no error of 10 %."""
CLIP = 4.0
CLIP_LEAST = 0.03
PACE = 0.04
"""How fast the usual error follows, once there are samples enough."""
SURE = 8
"""Samples after which a count far off is taken for a wild one, and left out, until it is one of `CHANGED` in a row:
then the upstream counts otherwise than it did, and what it counted before fades fast."""
CHANGED = 3
FADE_CHANGED = 0.8
PACE_CHANGED = 0.2
LOST = 0.25
"""The usual error above which, after `EARLY` samples, nothing that was learnt is worth keeping: it starts anew."""
WILD = 10
WILD_LEAST = 2_000
"""A prompt is not counted at more than `WILD` times its raw tokens, or times these: such a number is no count."""
DRIFTS = (0.4, 3.0)
MARGIN = 0.25
"""Of the usual error that an estimate adds, and at the most of the whole: without a drift, and with one."""
MARGIN_MOST = 0.02
MARGIN_DRIFTED_MOST = 0.005
EVERY = 16
"""Samples between two fits, after the first `EARLY` ones: a fit costs more than all the rest."""
EARLY = 32
LARGEST = 1_000_000_000

SIZE = len(PRIOR)
PAIRS = tuple((i, j) for i in range(SIZE) for j in range(i, SIZE))
"""The places of the sums of products: they are symmetric, and half of them are kept."""
LOOKED_AT = 1 << 12
"""Bytes of a prompt whose marks are counted; those before are taken to be like them."""
DIGITS = b"0123456789"
WIDE = bytes(range(128, 256))

Vector = tuple[float, ...]


class Sample(msgspec.Struct, frozen=True, gc=False):
    """A prompt as it is counted here: raw tokens of all that is sent but tools, of the tools, the number of messages
    (system ones included), whether there is a system message, and what `marks` finds in the messages."""

    text: int
    tools: int
    messages: int
    system: bool = True
    digits: int = 0
    wide: int = 0


class Learnt(msgspec.Struct, frozen=True, gc=False):
    """What the answers of one upstream taught about one model; kept as JSON.

    `count`: samples so far. `weights`: a, t, b, c, d, e, f. `squares` and `products`: the sums that they are fitted to.
    `spread`: the usual relative error of a prediction; `astray`: how many of the last counts in a row were far off.
    `limit`: the context in tokens, as an overflow error named it.
    """

    count: int = 0
    weights: Vector = PRIOR
    squares: Vector = tuple([TRUST[i] if i == j else 0.0 for i, j in PAIRS])
    products: Vector = tuple([trust * prior for trust, prior in zip(TRUST, PRIOR, strict=True)])
    spread: float = 0.5
    astray: int = 0
    limit: int | None = None


FRESH = Learnt()
_decode = msgspec.json.Decoder(Learnt).decode


def encoded(learnt: Learnt) -> bytes:
    """The JSON to keep."""
    return msgspec.json.encode(learnt)


def decoded(state: bytes) -> Learnt:
    """What was kept; nothing learnt where it cannot be read."""
    try:
        found = _decode(state)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return FRESH
    if (len(found.weights), len(found.squares), len(found.products)) != (SIZE, len(PAIRS), SIZE):
        return msgspec.structs.replace(FRESH, limit=found.limit)  # another version's sums
    sound = all(low <= weight <= high for weight, (low, high) in zip(found.weights, BOUNDS, strict=True))
    return found if sound and found.count >= 0 and 0 <= found.spread <= 100 else FRESH


def marks(messages: bytes) -> tuple[int, int]:
    """(digits, bytes that are not ASCII) in messages as JSON; nothing where they hold a file: its bytes are no text."""
    part = messages[-LOOKED_AT:]
    if b";base64," in part:
        return 0, 0
    digits = len(part) - len(part.translate(None, DIGITS))
    wide = 0 if part.isascii() else len(part) - len(part.translate(None, WIDE))
    escaped = part.count(b"\\u")  # \\u00fc: two bytes, and two digits or so that are none
    share = max(1.0, len(messages) / LOOKED_AT)
    return int(max(0.0, digits - 2.5 * escaped) * share), int((wide + 2 * escaped) * share)


def predicted(learnt: Learnt, sample: Sample) -> float:
    """What the upstream will count, without margin and drift. Never below half of the raw text: no tokenizer needs
    so little, a count that leaves something out does."""
    a, t, b, c, d, e, f = learnt.weights
    value = a * sample.text + t * sample.tools + b * sample.messages + c + e * sample.digits + f * sample.wide
    if not sample.system:
        value += d
    return max(value, 0.5 * sample.text, 1.0)


def expected(learnt: Learnt, sample: Sample, drift: float = 1.0) -> int:
    """The estimate: what the upstream will count, with a margin that makes it err upward. Exactly the raw tokens as
    long as nothing is learnt."""
    value = predicted(learnt, sample) * drift * _margin(learnt, drift)
    return math.ceil(max(value, 0.5 * sample.text) - 1e-6)


def least_factor(learnt: Learnt, drift: float = 1.0) -> float:
    """The least that a raw token adds to an estimate, whatever it belongs to: where a budget begins to be tried."""
    a, t, b = learnt.weights[:3]
    text = a + min(b, 0.0) / FRAME  # a message has `FRAME` raw tokens at the least
    return max(0.5, min(text, t)) * drift * _margin(learnt, drift)


def drift(learnt: Learnt, sample: Sample, counted: int) -> float:
    """What a branch's last turn tells of its texts: the count over the prediction, to give to the next estimate.
    `learnt`: with this count taken up, or the next estimate is corrected twice while a model is new."""
    if not _sane(sample, counted):
        return 1.0
    return min(max(counted / predicted(learnt, sample), DRIFTS[0]), DRIFTS[1])


def with_limit(learnt: Learnt, limit: int | None) -> Learnt:
    """The same with a model's context in tokens. A larger prompt that is answered lifts it again."""
    return msgspec.structs.replace(learnt, limit=limit)


def _sane(sample: Sample, counted: int) -> bool:
    """Whether a number can be the count of a prompt at all."""
    raw = sample.text + sample.tools
    return 0 < raw <= LARGEST and 0 < counted <= WILD * max(raw, WILD_LEAST)


def learn(learnt: Learnt, sample: Sample, counted: int) -> Learnt:
    """What is known after one more answer."""
    raw = sample.text + sample.tools
    if not _sane(sample, counted):
        return learnt
    if learnt.count > EARLY and learnt.spread > LOST:
        learnt = Learnt(limit=learnt.limit)
    if learnt.limit is not None and counted > learnt.limit:
        learnt = with_limit(learnt, None)
    scale = 1.0 / max(raw, SMALL)
    value = predicted(learnt, sample)
    most = CLIP * learnt.spread + CLIP_LEAST
    count = learnt.count + 1
    miss = (counted - value) * scale
    error = min(max(miss, -most), most)
    astray = 0 if error == miss else learnt.astray + 1
    changed = astray >= CHANGED
    spread = learnt.spread + (abs(error) - learnt.spread) * max(PACE_CHANGED if changed else PACE, 1.0 / (count + 1))
    if astray and not changed and count > SURE:
        return msgspec.structs.replace(learnt, count=count, spread=spread, astray=astray)
    bare = 0 if sample.system else 1
    at = (sample.text, sample.tools, sample.messages, 1, bare, sample.digits, sample.wide)
    squares, products = _summed(
        learnt, [one * scale for one in at], value * scale + error, FADE_CHANGED if astray else FADE
    )
    weights = _fitted(squares, products) if astray or count <= EARLY or count % EVERY == 0 else learnt.weights
    return Learnt(count, weights, squares, products, spread, astray, learnt.limit)


def _margin(learnt: Learnt, drift: float) -> float:
    if not learnt.count:
        return 1.0
    return 1.0 + min(MARGIN * learnt.spread, MARGIN_MOST if drift == 1.0 else MARGIN_DRIFTED_MOST)


def _summed(learnt: Learnt, at: Sequence[float], value: float, keep: float) -> tuple[Vector, Vector]:
    """The sums with a sample more, all older ones faded, the prior not."""
    squares = [keep * old + at[i] * at[j] for old, (i, j) in zip(learnt.squares, PAIRS, strict=True)]
    products = [keep * old + one * value for old, one in zip(learnt.products, at, strict=True)]
    place = 0
    for i, trust in enumerate(TRUST):
        squares[place] += (1.0 - keep) * trust
        products[i] += (1.0 - keep) * trust * PRIOR[i]
        place += SIZE - i
    return tuple(squares), tuple(products)


def _fitted(squares: Vector, products: Vector) -> Vector:
    """Solves the normal equations by elimination; the prior in them makes every pivot positive."""
    rows: list[list[float]] = []
    place = 0
    for i in range(SIZE):
        rows.append([*[rows[j][i] for j in range(i)], *squares[place : place + SIZE - i], products[i]])
        place += SIZE - i
    for i, pivot in enumerate(rows):
        if pivot[i] <= 0.0:
            return PRIOR  # sums that no samples make: a damaged state
        for j in range(i + 1, SIZE):
            factor = rows[j][i] / pivot[i]
            if factor:
                rows[j] = [under - factor * over for under, over in zip(rows[j], pivot, strict=True)]
    out = [0.0] * SIZE
    for i in range(SIZE - 1, -1, -1):
        row = rows[i]
        out[i] = (row[SIZE] - sum([row[k] * out[k] for k in range(i + 1, SIZE)])) / row[i]
    return tuple([min(max(value, low), high) for value, (low, high) in zip(out, BOUNDS, strict=True)])
