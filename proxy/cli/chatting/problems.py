"""A failure -> one plain line: what was wrong, and what to do here. Pure."""

from proxy.cli.chatting.clean import one_line
from proxy.cli.chatting.client import Failed

KEY = "start the chat with the right one: SESSION_PROXY_API_KEY, or --key"
AGAIN = "send it again"
CHECK = f"check the model server, then {AGAIN}"
CODES = {
    "no_proxy": "start one with `session-proxy serve`, or name another with --url",
    "broke_off": f"check that the proxy runs, then {AGAIN}",
    "model_not_found": "/model lists what there is, /model NAME switches",
    "model_required": "/model lists what there is, /model NAME switches",
    "session_busy": f"somebody else asks in this session; {AGAIN}, or take another with /session NAME",
    "session_deleted": "/session NAME begins another",
    "session_not_found": "/session NAME begins another",
    "branch_not_found": "/branch lists them",
    "turn_not_found": "/history shows what was said",
    "nothing_to_undo": "",
    "context_length_exceeded": "send less, or raise the budget in the proxy's configuration",
    "upstream_busy": f"wait a moment, then {AGAIN}",
    "upstream_auth_error": "put the right key into the proxy's configuration",
}
STATUSES = {
    413: "send less",
    429: f"wait a moment, then {AGAIN}",
    500: AGAIN,
    502: CHECK,
    503: f"wait a moment, then {AGAIN}",
    504: CHECK,
}


def line(failure: Failed) -> str:
    """The proxy's own words, and what to do where they do not say it."""
    if failure.status == 401 or failure.code == "invalid_api_key":
        return f"the key is missing, or not accepted; {KEY}"
    return _with(failure.message, CODES.get(failure.code or "", STATUSES.get(failure.status, "")))


def broken(problem: str) -> str:
    """An answer that broke off after its first words."""
    return _with(f"the answer broke off: {problem}", AGAIN)


def _with(said: str, todo: str) -> str:
    """Without advice that the proxy gives itself."""
    said = one_line(said).rstrip(".")
    todo = AGAIN if todo == CHECK and "check" in said else todo
    return said if not todo or (AGAIN in todo and "again" in said) else f"{said}; {todo}"
