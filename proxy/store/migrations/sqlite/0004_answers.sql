-- The choices of an answer of which its message, which is history, does not tell all: several, with logprobs, or ended
-- otherwise than it shows. JSON list, as a chat.completion carries them, choice 0 without its message.
CREATE TABLE choices (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (session, turn),
    FOREIGN KEY (session, turn) REFERENCES turns (session, turn) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Answers to requests with `store: true`. `name` is the id that the client saw; an upstream that gives one twice
-- leaves it to the newest, and the older one becomes `<name>-<id>`. `created` is in epoch seconds, as the answer tells
-- it; lists are in that order. `body` is the chat.completion without its id and its metadata, `messages` the JSON list
-- that the client sent. A session's completions go with their turns; the others have `request`, which a retry shares.
-- A deleted one is emptied and keeps its place for a day (`gone_at`), so that a list can go on behind it.
CREATE TABLE completions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    session INTEGER,
    turn INTEGER,
    request BLOB,
    created INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    gone_at INTEGER,
    metadata BLOB NOT NULL,
    body BLOB NOT NULL,
    messages BLOB NOT NULL,
    FOREIGN KEY (session, turn) REFERENCES turns (session, turn) ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX completions_name ON completions (tenant, name);
CREATE INDEX completions_turn ON completions (session, turn) WHERE session IS NOT NULL;
CREATE INDEX completions_request ON completions (tenant, request) WHERE request IS NOT NULL;
CREATE INDEX completions_emptied ON completions (tenant, gone_at) WHERE gone_at IS NOT NULL;

CREATE TRIGGER completions_gone AFTER DELETE ON completions BEGIN
    DELETE FROM facets WHERE kind = 'completion' AND owner = old.id;
END;

-- Files of the Sessions API. `hash` is the SHA-256 of the content, which stands in pieces, so that nothing that reads or
-- writes a large one holds up what else there is to do.
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL REFERENCES tenants (id),
    uuid TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    mime_type TEXT,
    project TEXT,
    size INTEGER NOT NULL,
    hash TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX files_uuid ON files (tenant, uuid);

CREATE TABLE pieces (
    file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    tenant INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (file, place)
) STRICT;

CREATE TRIGGER files_gone AFTER DELETE ON files BEGIN
    DELETE FROM facets WHERE kind = 'file' AND owner = old.id;
END;
