"""The org's objects: ``standard`` and ``setup`` list fields, ``schema`` holds all, ``describe`` answers."""
