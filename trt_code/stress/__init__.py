"""Programs that look for faults over long runs: fuzzing, misuse, damaged files, load.

They are run by hand; ``make test`` runs only short tests of them.
"""
