-- Tenants own everything; their number is the first condition of every query.
CREATE TABLE tenants (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

INSERT INTO tenants (id, name, created_at) VALUES (1, 'default', 0);

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    tenant INTEGER NOT NULL REFERENCES tenants (id),
    role TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL REFERENCES tenants (id),
    uuid TEXT NOT NULL,
    name TEXT,
    branch INTEGER NOT NULL,
    branches INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    token_budget INTEGER,
    overflow TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- The latest turn's answer, for an SDK that sends its request again; on this row, which every turn writes anyway.
    answered INTEGER,
    request BLOB,
    answer BLOB
) STRICT;

CREATE UNIQUE INDEX sessions_uuid ON sessions (tenant, uuid);
CREATE UNIQUE INDEX sessions_name ON sessions (tenant, name) WHERE name IS NOT NULL;

-- A branch shares the entries up to forked_at with its parent. The row carries its end, so that a turn
-- needs neither a count nor a scan: head (last seq), total (running tokens), the cut of the last turn.
CREATE TABLE branches (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    branch INTEGER NOT NULL,
    parent INTEGER,
    forked_at INTEGER NOT NULL,
    head INTEGER NOT NULL,
    total INTEGER NOT NULL,
    end_digest BLOB NOT NULL,
    end_status TEXT NOT NULL,
    last_turn INTEGER NOT NULL,
    cut INTEGER NOT NULL,
    cut_key TEXT NOT NULL,
    instructions INTEGER,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (session, branch)
) STRICT, WITHOUT ROWID;

-- The log: never updated. Clustered by place, so that a window is one range of neighbouring rows;
-- raw stands last, so that a scan of digests touches no overflow page.
CREATE TABLE entries (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    branch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    role TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    total INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    status TEXT NOT NULL,
    digest BLOB NOT NULL,
    raw BLOB NOT NULL,
    PRIMARY KEY (session, branch, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX entries_digest ON entries (session, digest);

-- Finds the last group of tool calls without a walk through a long chat that has none.
CREATE INDEX entries_calls ON entries (session, branch, seq) WHERE calls > 0;

-- Standing instructions, once for each text of a session.
CREATE TABLE instructions (
    id INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    digest BLOB NOT NULL,
    tokens INTEGER NOT NULL,
    raw BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX instructions_digest ON instructions (session, digest);

CREATE TABLE turns (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    turn INTEGER NOT NULL,
    branch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    status TEXT NOT NULL,
    model TEXT NOT NULL,
    instructions INTEGER,
    request_id TEXT NOT NULL,
    ledger BLOB NOT NULL,
    usage BLOB,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (session, turn)
) STRICT, WITHOUT ROWID;

-- Answers kept for retries under an Idempotency-Key.
CREATE TABLE replays (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    turn INTEGER NOT NULL,
    request BLOB NOT NULL,
    answer BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (session, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX replays_age ON replays (tenant, created_at);
