"""Entry points by which torch finds papilio. Separate from the package's ``__init__``, which may be
half imported at that moment: ``import papilio`` imports torch, and torch loads its entry points."""


def register() -> None:
    """Group ``torch.distributed.backends``: called when a program first asks for "papilio"."""
    import papilio

    papilio._register()


def autoload() -> None:
    """Group ``torch.backends``: importing this module imported the package, which registers."""
