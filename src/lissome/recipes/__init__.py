"""What the verbs do: recipes that bring networks, problems, adapters and optimisers together."""

from lissome._door import door

_HOMES = {
    "adapt": "lissome.recipes.adaptation",
    "bench": "lissome.recipes.benchmark",
    "compare": "lissome.recipes.pages",
    "demo": "lissome.recipes.demonstration",
    "diagnose": "lissome.recipes.diagnosis",
    "evaluate_language": "lissome.recipes.language.evaluate",
    "export_language": "lissome.recipes.language.convert",
    "fit_table": "lissome.recipes.table.run",
    "generate_text": "lissome.recipes.language.generate",
    "import_language": "lissome.recipes.language.convert",
    "list_families": "lissome.recipes.solution",
    "load": "lissome.recipes.archive",
    "papers": "lissome.recipes.catalogue",
    "predict": "lissome.recipes.table.predict",
    "rank": "lissome.recipes.ranks",
    "replicate": "lissome.recipes.replication",
    "settings": "lissome.recipes.settings",
    "show": "lissome.recipes.pages",
    "solve": "lissome.recipes.solution",
    "train_language": "lissome.recipes.language.train",
}
__getattr__, __dir__ = door(__name__, _HOMES)
__all__ = [
    "adapt",
    "bench",
    "compare",
    "demo",
    "diagnose",
    "evaluate_language",
    "export_language",
    "fit_table",
    "generate_text",
    "import_language",
    "list_families",
    "load",
    "papers",
    "predict",
    "rank",
    "replicate",
    "settings",
    "show",
    "solve",
    "train_language",
]
