"""How the golden files of each method are read: one file a method, named as the method.

`settings(config)` gives the method's settings from a file's own words for them. A file may also have `parameter(name)`,
which gives the method's own name of a released parameter (None: of the tower), and `check(golden)`, which gives the
largest absolute error by output where `harness.check.golden.vit.check_vit` does not do.
"""
