"""How the golden files of each objective are read: one file an objective, named as the file's `method`.

`check(golden)` gives the largest absolute error by output and gradient, of the objective that training minimises.
"""
