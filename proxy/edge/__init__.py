"""HTTP in, HTTP out: parse, call one function, render. Decides nothing."""
