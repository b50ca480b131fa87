"""One reader for each layout: folders, lists, tables and archives into clips.

A caption never moves to another clip. Lists of different length are an error, a name that fits two files fits none,
and whatever is not used is named with its reason.
"""
