"""How chains are checked, run, cached, measured and shown."""
