"""The benchmark suite: the proxy beside two yardsticks, in one run, on one machine."""
