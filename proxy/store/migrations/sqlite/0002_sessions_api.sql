-- Agents and users: what takes part in sessions. `body` is the JSON of resources.AgentFields or UserFields.
CREATE TABLE members (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL REFERENCES tenants (id),
    kind TEXT NOT NULL,
    uuid TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX members_uuid ON members (tenant, kind, uuid);

-- Who takes part in a session, in the order in which they were added.
CREATE TABLE participants (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    place INTEGER NOT NULL,
    member INTEGER NOT NULL REFERENCES members (id) ON DELETE CASCADE,
    PRIMARY KEY (session, kind, place)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX participants_member ON participants (member, session);

-- 1: the session has settings, participants, documents or tools, which a turn then reads. The last column: a turn
-- reads it without the pages of the answer before it.
ALTER TABLE sessions ADD COLUMN dressed INTEGER NOT NULL DEFAULT 0;

-- `body` is the JSON of resources.SessionFields.
CREATE TABLE settings (
    session INTEGER PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    tenant INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- When a message was said, where that is not the time of its turn: imported ones.
ALTER TABLE entries ADD COLUMN said_at INTEGER;

-- Everything that lists filter by: one row for each thing and value. Key '*' is the thing itself, 'agent' and 'user'
-- are participants or owners by their number, 'm:<path>' is a value of its metadata. Each list is a range of one index.
CREATE TABLE facets (
    tenant INTEGER NOT NULL,
    kind TEXT NOT NULL,
    owner INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (kind, owner, key, value)
) STRICT, WITHOUT ROWID;

CREATE INDEX facets_created ON facets (tenant, kind, key, value, created_at, owner);
CREATE INDEX facets_updated ON facets (tenant, kind, key, value, updated_at, owner);

INSERT INTO facets (tenant, kind, owner, key, value, created_at, updated_at)
SELECT tenant, 'session', id, '*', '', created_at, updated_at FROM sessions;

-- Documents of an agent, a user or a session. `content` is the JSON list of texts as they were given.
CREATE TABLE docs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    kind TEXT NOT NULL,
    owner INTEGER NOT NULL,
    digest BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    title TEXT NOT NULL,
    metadata BLOB NOT NULL,
    content BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX docs_uuid ON docs (tenant, uuid);
CREATE UNIQUE INDEX docs_digest ON docs (kind, owner, digest);

-- What is searched: pieces of a document of about a paragraph; `words` counts those in the text and its title.
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL,
    kind TEXT NOT NULL,
    owner INTEGER NOT NULL,
    doc INTEGER NOT NULL REFERENCES docs (id) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    words INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT;

CREATE INDEX chunks_doc ON chunks (doc, place);
-- Counted for each search: the tenant stands in it, so that no row is read.
CREATE INDEX chunks_owner ON chunks (tenant, kind, owner);

-- Which words stand in which chunk, by the chunk's number. `owner` is one word for each owner, so that a search reads
-- the lists of its owners only.
CREATE VIRTUAL TABLE words USING fts5 (
    owner, title, text, content = '', contentless_delete = 1, detail = 'column',
    tokenize = 'porter unicode61 remove_diacritics 2'
);

-- Tools of an agent or a session. `body` is the JSON of resources.ToolFields.
CREATE TABLE tools (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    kind TEXT NOT NULL,
    owner INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX tools_uuid ON tools (tenant, uuid);
CREATE UNIQUE INDEX tools_name ON tools (kind, owner, name);

-- What goes with its owner.
CREATE TRIGGER members_gone AFTER DELETE ON members BEGIN
    DELETE FROM facets WHERE kind = old.kind AND owner = old.id;
    -- By the primary key: asked for tenant, key and value alone, SQLite walks through all sessions there are.
    DELETE FROM facets WHERE kind = 'session' AND key = old.kind AND value = CAST(old.id AS TEXT) AND owner IN (
        SELECT owner FROM facets
        WHERE tenant = old.tenant AND kind = 'session' AND key = old.kind AND value = CAST(old.id AS TEXT)
    );
    DELETE FROM docs WHERE kind = old.kind AND owner = old.id;
    DELETE FROM tools WHERE kind = old.kind AND owner = old.id;
END;

CREATE TRIGGER sessions_gone AFTER DELETE ON sessions BEGIN
    DELETE FROM facets WHERE kind = 'session' AND owner = old.id;
    DELETE FROM docs WHERE kind = 'session' AND owner = old.id;
    DELETE FROM tools WHERE kind = 'session' AND owner = old.id;
END;

CREATE TRIGGER docs_gone AFTER DELETE ON docs BEGIN
    DELETE FROM facets WHERE kind = 'doc' AND owner = old.id;
END;

CREATE TRIGGER chunks_gone AFTER DELETE ON chunks BEGIN
    DELETE FROM words WHERE rowid = old.id;
END;
