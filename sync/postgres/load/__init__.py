"""Load pages into tables: copy, merge, feed entries, first load, dependent records, erasure.

Start with `merge`, then `sql` (the statements).
"""
