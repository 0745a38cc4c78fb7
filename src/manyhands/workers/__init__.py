"""The hands: one file for each kind of worker, behind one small protocol. They never import one another's engine or faces."""
