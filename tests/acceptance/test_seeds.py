"""The five documents that the Sessions API is measured by: one row for every call in them, each made as it is written.

S0: sessions guide for Node; S1: sessions guide for Python; S2: reference of the session endpoints; S3: OpenAPI of
"create session"; S4: page about chat. Where a document's package does not have what the document calls, or its samples
have lost the method's name, the call goes over plain HTTP.
"""

from collections.abc import Awaitable, Callable

import pytest

from tests.acceptance.julep_client import connected
from tests.acceptance.seeds import chat_features, create_session, endpoints, node_guide, python_guide
from tests.acceptance.seeds.world import World, world
from tests.acceptance.stage import Stage
from tests.scripted import echoes

pytestmark = pytest.mark.anyio

CALLS: dict[str, Callable[[World], Awaitable[None]]] = {
    "S0: sessions.create(agent_id, user_id, metadata, context_overflow)": node_guide.create,
    "S0: sessions.create(agent_id), user_id being optional": node_guide.create_without_a_user,
    "S0: sessions.chat(messages)": node_guide.chat,
    "S0: sessions.chat(messages), to continue": node_guide.chat_again,
    "S0: sessions.update(metadata), to add context": node_guide.update_context,
    "S0: sessions.history(limit, offset)": node_guide.history,
    "S0: sessions.tools.create(name, description, type, function)": node_guide.create_tool,
    "S0: sessions.docs.create(title, content, metadata)": node_guide.create_doc,
    "S0: sessions.docs.search(query, metadata)": node_guide.search_docs,
    "S0: sessions.get(sessionId)": node_guide.get,
    "S0: sessions.list(limit, offset, agent_id)": node_guide.list_of_an_agent,
    "S0: sessions.update(metadata), the status": node_guide.update_status,
    "S0: sessions.delete(sessionId)": node_guide.delete,
    "S0: sessions.chat(messages) that fails": node_guide.chat_that_fails,
    "S0: sessions.create(agent_id, context_overflow: adaptive)": node_guide.adaptive,
    "S0: sessions.create(agent_id, context_overflow: truncate)": node_guide.truncate,
    "S0: sessions.create(agent_id, context_overflow: summarize)": node_guide.summarize,
    "S1: sessions.create(agent_id, user_id, context_overflow, metadata)": python_guide.create,
    "S1: sessions.chat(session_id, messages)": python_guide.chat,
    "S1: sessions.chat(session_id, several messages)": python_guide.chat_with_several_messages,
    "S1: sessions.history(session_id, limit, before)": python_guide.history,
    "S1: sessions.update(session_id, metadata)": python_guide.update,
    "S1: sessions.clear(session_id)": python_guide.clear,
    "S1: sessions.docs.create(session_id, title, content, metadata)": python_guide.create_doc,
    "S1: sessions.docs.search(session_id, text, metadata_filter)": python_guide.search_docs,
    "S1: sessions.docs.delete(session_id, doc_id)": python_guide.delete_doc,
    "S1: sessions.list(agent_id, user_id, limit, offset)": python_guide.list_of_an_agent_and_a_user,
    "S1: sessions.get(session_id)": python_guide.get,
    "S1: sessions.delete(session_id)": python_guide.delete,
    "S1: sessions.get(nonexistent_id)": python_guide.get_an_unknown_one,
    "S1: sessions.create(agent_id, context_overflow=adaptive)": python_guide.adaptive,
    "S1: sessions.create(agent_id, context_overflow=truncate)": python_guide.truncate,
    "S1: sessions.create(agent_id, context_overflow=summarize)": python_guide.summarize,
    "S2: GET /sessions": endpoints.list_sessions,
    "S2: POST /sessions": endpoints.create_session,
    "S2: GET /sessions/{id}": endpoints.get_session,
    "S2: PUT /sessions/{id}": endpoints.update_session,
    "S2: DELETE /sessions/{id}": endpoints.delete_session,
    "S2: GET /sessions/{id}/messages": endpoints.get_messages,
    "S2: POST /sessions/{id}/messages": endpoints.create_message,
    "S2: GET /sessions/{id}/tools": endpoints.get_tools,
    "S2: POST /sessions/{id}/chat": endpoints.chat,
    "S3: POST /sessions 201, the least": create_session.minimal,
    "S3: POST /sessions 201, every field": create_session.full,
    "S3: POST /sessions 201, agents and users": create_session.several_participants,
    "S3: POST /sessions 201, nulls": create_session.all_null,
    "S3: POST /api/sessions": create_session.under_api,
    "S3: POST /sessions 201, recall_options of each kind": create_session.recall_options,
    "S3: POST /sessions 422": create_session.out_of_range,
    "S4: sessions.create(agent, user, recall, recall_options)": chat_features.create,
    "S4: sessions.chat(messages, recall)": chat_features.chat_with_recall,
    "S4: sessions.chat(messages, metadata)": chat_features.chat_with_metadata,
    "S4: sessions.chat(messages, response_format, settings)": chat_features.chat_with_response_format_and_settings,
    "S4: agents.create(name, tools)": chat_features.create_agent_with_tools,
    "S4: sessions.chat(messages, auto_run_tools=True)": chat_features.chat_with_auto_run_tools,
    "S4: sessions.chat(messages), tools run by the application": chat_features.chat_without_auto_run_tools,
    "S4: sessions.chat(messages, agent)": chat_features.chat_in_a_session_of_several_agents,
    "S4: sessions.chat(messages, tools, tool_choice)": chat_features.chat_with_tools_and_choice,
    "S4: sessions.chat with every additional parameter": chat_features.chat_with_every_parameter,
    "S4: sessions.chat(messages, stream=True)": chat_features.chat_as_a_stream,
    "S4: sessions.chat(messages, save=False)": chat_features.chat_without_save,
    "S4: sessions.chat(messages, recall_tools)": chat_features.chat_with_recall_tools,
    "S4: the answer's fields": chat_features.response_fields,
    "S4: the finish reasons": chat_features.finish_reasons,
}


@pytest.mark.parametrize("name", list(CALLS))
async def test_the_documents_calls_work_as_they_are_written(stage: Stage, name: str) -> None:
    up, proxied = await stage(echoes())
    async with connected(up, proxied) as sdk:
        await CALLS[name](await world(sdk))
