"""Pages into tables: copy, merge, feed entries, first load, what depends on a row, erasure.

Start with `merge`, then `sql` (the statements).
"""
