"""What was said last -> the words to search for. Pure."""

import re
from collections.abc import Iterable

MOST = 32
"""Words of one query; the last ones of a long text are what it asks."""

_WORD = re.compile(r"\w+", re.UNICODE)

_STOP = (
    "a about above after again all also am an and any are as at be because been before being below between both "
    "but by can could did do does doing down during each few for from further get give go had has have having he "
    "her here hers him his how i if in into is it its just know let like make me more most my no nor not now of "
    "off ok okay on once only or other our ours out over own please same she should so some such tell than thank "
    "thanks that the their them then there these they this those through to too under until up us very want was "
    "we were what when where which while who whom why will with would yes you your yours"
)
STOP = frozenset(_STOP.split())
"""Words that tell nothing about what is asked."""

_CHATTER = (
    "absolutely actually afternoon agree agreed ahead alright always amazing anything anytime anyway appreciate "
    "appreciated around awesome away back bad beautiful best bet better big bit bless bravo brilliant busy bye care "
    "catch catching chat cheers clear come coming continue cool correct course cute dear deal definitely different "
    "done dude easy else enjoy enough even evening ever every everyone everything exactly excellent excited exciting "
    "fab fair fantastic far feel feeling feels fine first forward friend friends fun funny glad goes going gonna gone "
    "good goodbye goodnight gosh got gotta grateful great greatly guess guy guys haha hahaha happen happened "
    "happening happy hard hear heard hehe hello help helped helpful helping helps hey hi hmm honestly hope hopefully "
    "hoping huge hugs idea impressed impressive incredible indeed inspiration inspiring interesting journey keep "
    "keeps kind kinda knew knowing known last later least left life little lmao lol long look looked looking looks "
    "lot lots love loved lovely loves luck lucky made makes making man mate matter maybe mean means meant mind moment "
    "moments morning much must need needed needs never new next nice night nope nothing now oh omg one ones oops ouch "
    "part people perfect perfectly perhaps person please pleasure plus point positive pretty probably progress proud "
    "put quite rather ready real really reason remind remember right said saw say saying says see seem seems seen "
    "share sharing sincerely small someone something sometimes somewhere soon sorry sort sound sounds special spend "
    "start started stay still stuff super support sure surely sweet take takes taking talk talked talking thanx thing "
    "things think thinking thought thoughts thx time times today together told tomorrow tonight took totally true "
    "truly try trying two understand understood updated use used useful usually wait wanna wanted wants way ways week "
    "weekend welcome well went whatever whenever whoa wish wonder wonderful wondering wonders word words work working "
    "works worry worth wow wrong ya yay yeah year years yep yesterday yet yo yup s t m d ll re ve don didn doesn isn "
    "wasn aren won couldn wouldn shouldn haven hasn hadn danke schön bitte gut guten morgen hallo genau prima tschüss "
    "ja nein merci beaucoup bonjour bonsoir salut oui non bien gracias hola buenos días sí vale bueno grazie ciao "
    "prego sì va bene obrigado obrigada olá sim tudo bem tack hej tak dank je wel goed спасибо привет да нет хорошо "
    "谢谢 你好 好的 ありがとう こんにちは"
)
CHATTER = frozenset(_CHATTER.split())
"""Words that small talk is made of: of documents they are searched for as any other, of what was said they tell little,
since it is full of them."""
LITTLE = 0.3
"""What such a word weighs."""
ASIDE = 0.5
"""What a word weighs that stands beside the question of a message."""

_SENTENCE = re.compile(r"[^.!?。！？؟\n]+[.!?。！？؟]*")
_ASKS = re.compile(
    r"[?？؟]|^\s*(?:(?:and|but|so|please|ok|okay|hey|hi)[\s,]+)*(?:can you |could you )?"
    r"(?:remind|tell|list|recall|repeat|summari[sz]e|show|name|find|give|look up|quote)\b",
    re.IGNORECASE,
)


def every(text: str) -> list[str]:
    """All words of a text, in order."""
    return _WORD.findall(text)


def words(text: str) -> list[str]:
    """The different words that carry meaning, lower case, at most 32: the last ones."""
    found = dict.fromkeys(word for word in _WORD.findall(text.lower()) if word not in STOP and len(word) <= 100)
    return list(found)[-MOST:]


def joined(said: Iterable[str], longest: int) -> str:
    """The last `longest` characters of what was said, oldest first."""
    return "\n".join(part for part in said if part)[-longest:]


def asked(text: str) -> tuple[dict[str, float], bool]:
    """The words of a message with what they weigh, and whether it asks something: those of its questions weigh most.
    None where there is but small talk."""
    questions = [part for part in _SENTENCE.findall(text) if _ASKS.search(part)]
    centre = frozenset(words(" ".join(questions))) if questions else None
    weights = {}
    for word in words(text):
        weight = LITTLE if word in CHATTER else 1.0
        weights[word] = weight if centre is None or word in centre else weight * ASIDE
    told = any(word not in CHATTER for word in weights)
    return (weights if told else {}), centre is not None
