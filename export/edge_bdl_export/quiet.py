"""Silence: torch and the converters talk on both streams, also from C++; an error says what there is to say."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing printed, logged or warned inside comes out."""
    previous = logging.root.manager.disable
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    with open(os.devnull, "w") as sink, warnings.catch_warnings(), contextlib.ExitStack() as streams:
        streams.enter_context(contextlib.redirect_stdout(sink))
        streams.enter_context(contextlib.redirect_stderr(sink))
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        for descriptor in (1, 2):
            os.dup2(sink.fileno(), descriptor)
        try:
            yield
        finally:
            logging.disable(previous)
            for descriptor, copied in zip((1, 2), saved, strict=True):
                os.dup2(copied, descriptor)
                os.close(copied)
