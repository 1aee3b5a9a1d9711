"""Entry points by which torch finds papilio.

A module of its own, beside the package: torch calls ``autoload`` at the end of its own import, in
every process, and there a papilio for another torch must not stop programs that do not use it.
"""

import warnings


def register() -> None:
    """Group ``torch.distributed.backends``: called when a program first asks for "papilio"."""
    import papilio

    papilio._register()


def autoload() -> None:
    """Group ``torch.backends``: importing the package registers the backend."""
    try:
        import papilio  # noqa: F401
    except ImportError as error:
        warnings.warn(f'backend "papilio" is not available: {error}', stacklevel=2)
