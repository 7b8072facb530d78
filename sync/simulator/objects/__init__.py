"""The objects of the org: schema holds them, standard lists the fields, describe answers."""
