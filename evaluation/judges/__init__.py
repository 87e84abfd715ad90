"""Recognisers that say how much two faces look like one person."""
