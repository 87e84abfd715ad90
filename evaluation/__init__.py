"""Measuring likeness: face similarity by independent recognisers, and what else the published system was judged by."""
