"""Files, texts to embed and jobs, as the Sessions API takes and gives them."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from proxy.edge.julep.shapes import Id, Long, Name, Offset, Plain, Time

Media = Annotated[str, Meta(min_length=1, max_length=255, description="The content's media type, e.g. `text/plain`.")]
Said = Annotated[Long, Meta(description="What it is, in words.")]


class CreateFile(Plain, kw_only=True, frozen=True):
    """A file to keep."""

    name: Name
    content: Annotated[str, Meta(min_length=1, description="The file's bytes in base64; white space is skipped.")]
    description: Said = ""
    mime_type: Media | None = None
    project: str | None = None


class File(Plain, kw_only=True, frozen=True):
    """A stored file. A list leaves out the content: it is null there."""

    id: Id
    created_at: Time
    name: str
    description: Annotated[str, Meta(description="What it is, in words.")]
    mime_type: str | None
    project: str | None
    size: Annotated[int, Meta(description="Bytes of the content.")]
    hash: Annotated[str, Meta(description="The content's SHA-256, in hex.")]
    content: Annotated[str, Meta(description="The file's bytes in base64; null in a list.")] | None = None


class FileListing(Plain, kw_only=True, frozen=True):
    """The query of the list of files, the newest first."""

    MOST: ClassVar[int] = 1000
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many items at the most.")] = 1000
    offset: Offset = 0


class Embed(Plain, kw_only=True, frozen=True):
    """Texts to make vectors of."""

    text: Annotated[
        Annotated[str, Meta(min_length=1)] | Annotated[list[str], Meta(min_length=1, max_length=100)],
        Meta(description="A text, or up to 100 of them."),
    ]
    embed_instruction: Annotated[str, Meta(max_length=10_000, description="Stands before each text.")] = ""


class Embedded(Plain, kw_only=True, frozen=True):
    """The vectors, one for each text in their order, each of the length 1."""

    vectors: list[list[float]]


class JobStatus(Plain, kw_only=True, frozen=True):
    """How far a job is. Nothing runs in the background here: what has an id is done."""

    id: Id
    name: Annotated[str, Meta(description="What the job made: `agent`, `user`, `session`, `doc` or `file`.")]
    reason: Annotated[str, Meta(description="Why it is where it is.")]
    created_at: Time
    updated_at: Time
    has_progress: Annotated[bool, Meta(description="Whether it tells how far it is.")] = False
    progress: Annotated[float, Meta(ge=0, le=100, description="How far it is, in per cent.")] = 100.0
    state: Annotated[
        Literal["pending", "in_progress", "retrying", "succeeded", "aborted", "failed", "unknown"],
        Meta(description="Always `succeeded`."),
    ] = "succeeded"
