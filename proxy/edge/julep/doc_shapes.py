"""Documents and searches, as the Sessions API takes and gives them."""

from typing import Annotated, Literal

from msgspec import Meta, field

from proxy.edge.julep.shapes import Deleted, Id, Json, Plain, Time, UpToOne

Title = Annotated[str, Meta(min_length=1, max_length=800)]


class CreateDoc(Plain, kw_only=True, frozen=True):
    """A new document: one text, or several in order."""

    title: Title
    content: Annotated[str, Meta(min_length=1)] | Annotated[list[str], Meta(min_length=1)]
    metadata: Json | None = None


class Doc(Plain, kw_only=True, frozen=True):
    """A stored document. There are no embeddings: `embeddings` is always null."""

    id: Id
    created_at: Time
    title: str
    content: list[str]
    metadata: Json
    modality: str = "text"
    language: str = "english"
    embedding_model: str | None = None
    embedding_dimensions: int | None = None
    embeddings: list[float] | None = None


class Docs(Plain, kw_only=True, frozen=True):
    """A page of documents."""

    items: list[Doc]


class DeleteDocs(Plain, kw_only=True, frozen=True):
    """Which documents of an owner go: those with this metadata, or all. Neither: none."""

    metadata_filter: Json = field(default_factory=dict)
    delete_all: bool = False


class DeletedDocs(Plain, kw_only=True, frozen=True):
    """What deleting several documents answers."""

    items: list[Deleted]


class Search(Plain, kw_only=True, frozen=True):
    """A search. `query` stands for `text` and `metadata` for `metadata_filter`; `vector` is not compared with anything
    in this version, so that `text` must be given."""

    text: Annotated[str, Meta(max_length=10_000)] | None = None
    query: Annotated[str, Meta(max_length=10_000)] | None = None
    vector: list[float] | None = None
    mode: Literal["vector", "text", "hybrid"] | None = None
    limit: Annotated[int, Meta(ge=1, le=50)] = 10
    lang: Annotated[str, Meta(max_length=35)] = "en-US"
    metadata_filter: Json | None = None
    metadata: Json | None = None
    confidence: Annotated[float, Meta(ge=-1, le=1)] = 0.5
    alpha: UpToOne = 0.5
    mmr_strength: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    k_multiplier: Annotated[int, Meta(ge=0)] = 7
    include_embeddings: bool = True
    trigram_similarity_threshold: UpToOne | None = None


class DocOwner(Plain, kw_only=True, frozen=True):
    """Whose a document is."""

    id: Id
    role: Literal["agent", "user", "session"]


class Snippet(Plain, kw_only=True, frozen=True):
    """The piece of a document that was found."""

    index: int
    content: str
    embedding: list[float] | None = None


class DocReference(Plain, kw_only=True, frozen=True):
    """A found document. `distance` is less the better it fits, between 0 and 1."""

    id: Id
    title: str | None
    owner: DocOwner
    snippet: Snippet
    distance: float | None
    metadata: Json


class Found(Plain, kw_only=True, frozen=True):
    """The result of a search; `time` in seconds."""

    docs: list[DocReference]
    time: float
