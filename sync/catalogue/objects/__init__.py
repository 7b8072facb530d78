"""★ One module for each replicated object: its fields, in the order of its columns. The one place to edit.

Compound addresses are left out (their parts are here), and so are LastViewedDate and LastReferencedDate,
whose values depend on who asks. Fields that an org does not show are skipped. Custom fields need no line: all
of them are in the column `custom`. A line gives one a column of its own, too. New lines go to the end of
their list, so that columns keep their order in the consumers' views. Start with `contact`.
"""
