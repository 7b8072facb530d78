"""SOQL: text to syntax tree, tree to SQL, result columns to JSON records."""
