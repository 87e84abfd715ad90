"""How the tiny trained models were made: one command per recipe, `python -m likeness.recipes cpu` or `gpu`."""
