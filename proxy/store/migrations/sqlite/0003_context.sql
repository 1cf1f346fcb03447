-- What a turn leaves for the next one of its branch, beside the cut: JSON of types.Carried. A fork takes up what the
-- turn left after which it begins, so each turn keeps its own.
ALTER TABLE branches ADD COLUMN carried BLOB NOT NULL DEFAULT x'';
ALTER TABLE turns ADD COLUMN cut INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN cut_key TEXT NOT NULL DEFAULT '';
ALTER TABLE turns ADD COLUMN carried BLOB NOT NULL DEFAULT x'';

-- The text that was recalled for a turn and went up with its user message; sent again for the rest of its tool loop.
ALTER TABLE turns ADD COLUMN recalled BLOB;

-- Summaries of a line's entries 1 to `upto`, of which the last stands on `branch`. A cache of what the log says: each
-- can be made anew, and none is ever changed.
CREATE TABLE summaries (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    branch INTEGER NOT NULL,
    upto INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    model TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (session, branch, upto)
) STRICT, WITHOUT ROWID;

-- Which there are, read for every turn that may send one, without their texts.
CREATE INDEX summaries_places ON summaries (session, tenant, branch, upto);

-- How many calls a session's summaries have cost, those that failed among them.
CREATE TABLE summary_calls (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    calls INTEGER NOT NULL
) STRICT;

-- Exchanges that left the window of a long session: what is searched for old turns. Entries `first` to `last` of a
-- branch's own rows, `turn` that of the first; `words` counts those that are indexed, -1 stands for a stretch that is
-- still to be. The numbers of a session's passages are a range of their own (store.passages says how).
CREATE TABLE passages (
    id INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    branch INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    words INTEGER NOT NULL,
    turn INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The tenant stands in it, so that a search reads no row for what is another's.
CREATE UNIQUE INDEX passages_place ON passages (session, branch, tenant, last, first);
CREATE INDEX passages_waiting ON passages (session, branch, last) WHERE words < 0;

-- Which words stand in which passage, by the passage's number: a search asks for one session's range of numbers, so
-- that it costs the same however many sessions use a word.
CREATE VIRTUAL TABLE spoken USING fts5 (
    text, content = '', contentless_delete = 1, detail = 'none',
    tokenize = 'porter unicode61 remove_diacritics 2'
);

CREATE TRIGGER passages_gone AFTER DELETE ON passages BEGIN
    DELETE FROM spoken WHERE rowid = old.id;
END;

-- Large base64 of messages, once for each tenant; an entry holds the hash in its place. `blob_uses` says which branches of
-- which sessions have entries that need one: it goes with the last of them.
CREATE TABLE blobs (
    tenant INTEGER NOT NULL REFERENCES tenants (id),
    hash BLOB NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant, hash)
) STRICT;

CREATE TABLE blob_uses (
    tenant INTEGER NOT NULL,
    hash BLOB NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    branch INTEGER NOT NULL,
    PRIMARY KEY (tenant, hash, session, branch)
) STRICT, WITHOUT ROWID;

CREATE INDEX blob_uses_session ON blob_uses (session, branch);

CREATE TRIGGER blob_uses_gone AFTER DELETE ON blob_uses BEGIN
    DELETE FROM blobs WHERE tenant = old.tenant AND hash = old.hash AND NOT EXISTS (
        SELECT 1 FROM blob_uses WHERE tenant = old.tenant AND hash = old.hash
    );
END;

-- What the answers of an upstream taught about a model: `state` is the JSON of context.calibrate.Learnt.
CREATE TABLE calibrations (
    upstream TEXT NOT NULL,
    model TEXT NOT NULL,
    state BLOB NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (upstream, model)
) STRICT, WITHOUT ROWID;
