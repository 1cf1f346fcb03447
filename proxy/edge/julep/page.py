"""Lists: a query's limit, offset, order and filters, with one meaning everywhere."""

from proxy.edge.julep.shapes import Listing
from proxy.resources import Page
from proxy.store import facets
from proxy.store.facets import Facet


def page_of(query: Listing) -> Page:
    """Which part of a list is asked for."""
    return Page(query.limit, query.offset, query.sort_by, query.direction)


def filters(query: Listing) -> list[Facet]:
    """The values that the metadata must have."""
    return facets.of_metadata(query.metadata_filter)
