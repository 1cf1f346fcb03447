"""The Sessions API, as Julep's SDK speaks it: served under / and /api."""
