"""THE route table: every path of the product in one list. Newcomers start here.

Intentional: the hot path and the pass-through are dispatched before Starlette's router, which costs 20 to 40 µs a
request; everything else is ordinary Starlette. application.py serves the table.
"""

from collections.abc import Awaitable, Callable

from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from proxy.edge import failures, health, metrics, openapi, reference
from proxy.edge.deliver import Connection, log_request
from proxy.edge.julep import (
    agents,
    branch_shapes,
    branches,
    chat,
    chat_shapes,
    doc_shapes,
    docs,
    embed,
    export,
    file_shapes,
    files,
    history,
    jobs,
    sessions,
    shapes,
    tools,
    turns,
    users,
)
from proxy.edge.openai import stored
from proxy.edge.openai.chat import completions
from proxy.edge.operation import CONNECTION, Lines, Operation, PathEndpoint
from proxy.edge.published import Publication, Published
from proxy.edge.request import frame
from proxy.errors import NotFound
from proxy.services import Services

Endpoint = Callable[[Services, Scope, Connection], Awaitable[None]]

HOT: dict[tuple[str, str], Endpoint] = {
    ("POST", "/v1/chat/completions"): completions,
}

BELOW: dict[str, Endpoint] = {
    stored.PATH: stored.stored,
}
"""Paths of /v1 that are ours with all that stands below them, where HOT has nothing; the others pass through."""

PLAIN = [
    Route("/healthz", health.healthz, methods=["GET"]),
    Route("/readyz", health.readyz, methods=["GET"]),
    Route("/metrics", metrics.metrics, methods=["GET"]),
]
ALWAYS = frozenset(route.path for route in PLAIN)
"""What answers also while the server drains or is full."""

AGENT, USER, SESSION = "/agents/{id}", "/users/{id}", "/sessions/{id}"

OPERATIONS = [
    Operation("GET", "/agents", agents.page, shapes.Agents, query=shapes.Listing),
    Operation("POST", "/agents", agents.create, shapes.Agent, 201, body=shapes.CreateAgent),
    Operation("GET", "/agents/models", agents.models, shapes.Models),
    Operation("GET", AGENT, agents.get, shapes.Agent),
    Operation("POST", AGENT, agents.put, shapes.Agent, 201, body=shapes.CreateAgent),
    Operation("PUT", AGENT, agents.replace, shapes.Agent, body=shapes.ChangeAgent),
    Operation("PATCH", AGENT, agents.patch, shapes.Agent, body=shapes.ChangeAgent),
    Operation("DELETE", AGENT, agents.delete, shapes.Deleted, 202),
    Operation("GET", "/users", users.page, shapes.Users, query=shapes.Listing),
    Operation("POST", "/users", users.create, shapes.User, 201, body=shapes.ChangeUser),
    Operation("GET", USER, users.get, shapes.User),
    Operation("POST", USER, users.put, shapes.User, 201, body=shapes.ChangeUser),
    Operation("PUT", USER, users.replace, shapes.User, body=shapes.ChangeUser),
    Operation("PATCH", USER, users.patch, shapes.User, body=shapes.ChangeUser),
    Operation("DELETE", USER, users.delete, shapes.Deleted, 202),
    Operation("GET", "/sessions", sessions.page, shapes.Sessions, query=shapes.SessionListing),
    Operation("POST", "/sessions", sessions.create, shapes.Session, 201, body=shapes.CreateSession),
    Operation("GET", SESSION, sessions.get, shapes.Session),
    Operation("POST", SESSION, sessions.put, shapes.Session, 201, body=shapes.CreateSession),
    Operation("PUT", SESSION, sessions.replace, shapes.Session, body=shapes.ChangeSession),
    Operation("PATCH", SESSION, sessions.patch, shapes.Session, body=shapes.ChangeSession),
    Operation("DELETE", SESSION, sessions.delete, shapes.Deleted, 202),
    Operation("POST", SESSION + "/chat", chat.chat, chat_shapes.ChatResponse, 201, body=chat_shapes.Chat, small=False),
    Operation("POST", SESSION + "/render", chat.render, chat_shapes.Rendered, body=chat_shapes.Chat, small=False),
    Operation("GET", SESSION + "/history", history.show, chat_shapes.History, query=chat_shapes.Ranged),
    Operation("DELETE", SESSION + "/history", history.clear, shapes.Deleted, 202),
    Operation("GET", SESSION + "/turns", turns.page, branch_shapes.Turns, query=branch_shapes.TurnListing),
    Operation("GET", SESSION + "/turns/{turn}", turns.get, branch_shapes.WholeTurn),
    Operation("GET", SESSION + "/turns/{turn}/context", turns.context, branch_shapes.Context),
    Operation("GET", SESSION + "/branches", branches.page, branch_shapes.Branches, query=branch_shapes.BranchListing),
    Operation("DELETE", SESSION + "/branches/{branch}", branches.delete, branch_shapes.DeletedBranch, 202),
    Operation("POST", SESSION + "/fork", branches.fork, branch_shapes.Branch, 201, body=branch_shapes.Fork),
    Operation("POST", SESSION + "/undo", branches.undo, branch_shapes.Branch),
    Operation("GET", SESSION + "/export", export.lines, Lines),
    Operation("GET", SESSION + "/messages", history.messages, chat_shapes.Messages, query=chat_shapes.MessageListing),
    Operation(
        "POST",
        SESSION + "/messages",
        history.say,
        chat_shapes.Message,
        201,
        body=chat_shapes.CreateMessage,
        small=False,
    ),
    *[
        Operation(method, owner + path, call, answer, status, body=body, query=query)
        for owner in (AGENT, SESSION)
        for method, path, call, answer, status, body, query in (
            ("GET", "/tools", tools.page, shapes.Tools, 200, None, shapes.Listing),
            ("POST", "/tools", tools.create, shapes.Tool, 201, shapes.CreateTool, None),
            ("PUT", "/tools/{tool}", tools.replace, shapes.Tool, 200, shapes.ChangeTool, None),
            ("PATCH", "/tools/{tool}", tools.patch, shapes.Tool, 200, shapes.ChangeTool, None),
            ("DELETE", "/tools/{tool}", tools.delete, shapes.Deleted, 202, None, None),
        )
    ],
    *[
        Operation(method, owner + path, call, answer, status, body=body, query=query)
        for owner in (AGENT, USER, SESSION)
        for method, path, call, answer, status, body, query in (
            ("GET", "/docs", docs.page, doc_shapes.Docs, 200, None, shapes.Listing),
            ("POST", "/docs", docs.create, doc_shapes.Doc, 201, doc_shapes.CreateDoc, None),
            ("DELETE", "/docs", docs.delete_many, doc_shapes.DeletedDocs, 202, doc_shapes.DeleteDocs, None),
            ("POST", "/search", docs.find, doc_shapes.Found, 200, doc_shapes.Search, None),
            ("POST", "/docs/search", docs.find, doc_shapes.Found, 200, doc_shapes.Search, None),
            ("DELETE", "/docs/{doc}", docs.delete, shapes.Deleted, 202, None, None),
        )
    ],
    Operation("GET", "/docs/{doc}", docs.get, doc_shapes.Doc),
    Operation("POST", "/embed", embed.embed, file_shapes.Embedded, body=file_shapes.Embed),
    Operation("GET", "/files", files.page, list[file_shapes.File], query=file_shapes.FileListing),
    Operation("POST", "/files", files.create, file_shapes.File, 201, body=file_shapes.CreateFile, small=False),
    Operation("GET", "/files/{id}", files.get, file_shapes.File),
    Operation("DELETE", "/files/{id}", files.delete, shapes.Deleted, 202),
    Operation("GET", "/jobs/{id}", jobs.get, file_shapes.JobStatus),
]
"""The Sessions API, under / and /api. Each row: method, path, handler, what it answers, with which status, and what it
takes."""

PUBLISHED: dict[str, Callable[[], Publication]] = {
    "/openapi.json": lambda: openapi.publication(OPERATIONS),
    "/docs": lambda: reference.publication(openapi.document(OPERATIONS)),
}
"""What is the same for everybody, under / and /api; no key is asked for."""


def routed(svc: Services) -> Router:
    """The Sessions API as an ASGI application, one endpoint a path."""
    paths: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, []).append(operation)
    routes = [Route(path, PathEndpoint(svc, operations)) for path, operations in paths.items()]
    routes += [Route(path, Published(svc, make)) for path, make in PUBLISHED.items()]
    return Router(routes, redirect_slashes=False, default=Unknown(svc))


class Unknown:
    """Any other path: the envelope, never plain text."""

    def __init__(self, svc: Services) -> None:
        self.svc = svc

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        failure = NotFound("there is no such path here; GET /openapi.json lists what there is", code="unknown_url")
        connection: Connection = scope[CONNECTION]
        request = frame(scope)
        connection.status, connection.outcome = failure.status, failure.code or failure.type
        await failures.respond(connection.tell, failure, {"x-request-id": request.id})
        log_request(self.svc, request, connection, {})
