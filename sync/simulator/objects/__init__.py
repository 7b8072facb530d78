"""The org's objects: ``standard`` lists fields, ``described`` reads a describe, ``schema`` holds both."""
